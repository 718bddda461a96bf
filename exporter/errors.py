"""Why no bundle was made.

::

    ExportError
    ├── BadOptions           an option is out of its range
    ├── ExportDataMissing    the folder lacks a split or a class that calibration needs
    ├── ParityFailed         ONNX Runtime and PyTorch differ by more than the tolerance
    └── GraphInvalid         the exported graph is not what the contract wants
"""


class ExportError(Exception):
    """No bundle was written; the message says what is missing or by how much it failed."""


class BadOptions(ExportError):
    """Names the option, the value and what was expected."""


class ExportDataMissing(ExportError):
    """Templates need training images of every label, calibration needs held-out images of both kinds."""


class ParityFailed(ExportError):
    """The graph does not compute what the network computes."""


class GraphInvalid(ExportError):
    """Wrong inputs, outputs or axes."""
