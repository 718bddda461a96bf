"""Errors before or while a model is trained; the command line prints them as one line and exits with 2.

::

    TrainerError
    ├── BadConfig               a recipe or option names an unknown key or an invalid value
    ├── OutputExists            something is already where the result should go
    ├── OutputUnwritable        nothing can be written where the result should go
    ├── FolderInUse             another process writes to the same folder
    ├── DataError               the images cannot be used as they are
    │   ├── DataMissing         no such folder, or nothing in it
    │   ├── DataMalformed       a list or a shard violates its layout
    │   ├── SplitUnknown        a data set has several splits, and none or an unknown one is named
    │   ├── TooFewClasses       fewer than two classes, or all images of one kind
    │   ├── RealLabelMissing    no class has the name that photographs should have
    │   ├── UnknownClass        the checkpoint has no label, or the folder no class, of that name
    │   ├── TooManyUnreadable   more broken images than the limit
    │   ├── NotInCorpus         the corpus lacks a generator that an experiment needs
    │   └── TooFewPhotographs   too few to split, or to cut so many patches from
    └── CheckpointError
        ├── CheckpointMissing   no such file, or it cannot be read
        └── CheckpointInvalid   the file is no checkpoint, or of an unknown version, or lacks config keys
"""

from typing import TYPE_CHECKING

from bundle.text import brief

if TYPE_CHECKING:
    from pydantic import ValidationError


class TrainerError(Exception):
    """The message says in one line what is wrong, where, and what to do."""


class BadConfig(TrainerError):
    """Names key, value and expectation."""


class OutputExists(TrainerError):
    """Nothing is overwritten without ``--force``."""


class OutputUnwritable(TrainerError):
    """Nothing can be created where the result should go: no permission, no space, or a file above it."""


class FolderInUse(TrainerError):
    """Two runs in one folder would mix their results."""


class DataError(TrainerError):
    """The images cannot be used as they are."""


class DataMissing(DataError):
    """There is no such folder, or no image in it."""


class DataMalformed(DataError):
    """A list of images or a shard violates its layout."""


class SplitUnknown(DataError):
    """There are several splits, and none or an unknown one is named."""


class TooFewClasses(DataError):
    """A classifier or a figure needs images of both kinds, photographs and generated."""


class RealLabelMissing(DataError):
    """Without photographs there is no decision between real and generated."""


class UnknownClass(DataError):
    """The checkpoint has no such label, or the folder no such class."""


class TooManyUnreadable(DataError):
    """More images are broken than the limit; the message lists the first."""


class NotInCorpus(DataError):
    """An experiment needs a generator that the corpus lacks; the message says how to name a stand-in."""


class TooFewPhotographs(DataError):
    """There are too few photographs to split in three, or to cut so many patches from."""


class CheckpointError(TrainerError):
    """The checkpoint cannot be used."""


class CheckpointMissing(CheckpointError):
    """There is no such file, or it cannot be read."""


class CheckpointInvalid(CheckpointError):
    """The file is no checkpoint, or of an unknown version, or its config lacks keys."""


def first_fault(error: "ValidationError") -> tuple[str, str]:
    """The first value that pydantic refused: its dotted key, and what is wrong with it."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return key, "no such setting"
    return key, f"{first['msg']}, got {brief(first['input'])}"
