"""What can go wrong with a local server.

LocalServerError
├── UnavailableError    this machine lacks what the server needs (Java, Maven, a wheel)
├── StartError          it died or stayed silent while starting; the message ends with the tail of its log
├── ExitedError         it served, and then ended by itself; the same tail
└── TopicError          the broker refused to create a topic
"""


class LocalServerError(RuntimeError):
    """Base of every error of this package."""


class UnavailableError(LocalServerError):
    """The server cannot run on this machine; the message says what to install."""


class StartError(LocalServerError):
    """The server did not become ready."""


class ExitedError(LocalServerError):
    """The server ended without being asked to."""


class TopicError(LocalServerError):
    """A topic could not be created."""
