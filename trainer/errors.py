"""What can be wrong before or while a model is trained; the command line prints it as one line and exits with 2.

::

    TrainerError
    ├── BadConfig               a recipe or option names an unknown key or a value that cannot be
    ├── OutputExists            something is already where the result should go
    ├── OutputUnwritable        nothing can be written where the result should go
    ├── FolderInUse             another process is writing where we would
    ├── DataError               the images cannot be used as they are
    │   ├── DataMissing         no such folder, or nothing in it
    │   ├── DataMalformed       a list or a shard is not as it should be
    │   ├── SplitUnknown        a set has several splits and none, or another, was named
    │   ├── TooFewClasses       fewer than two classes, or photographs alone
    │   ├── RealLabelMissing    no sub-folder is named as the photographs' one
    │   ├── UnknownClass        a sub-folder the checkpoint was not trained on
    │   ├── TooManyUnreadable   more broken images than the limit
    │   ├── NotInCorpus         nothing in it stands for what an experiment needs
    │   └── TooFewPhotographs   not enough to split, or to cut so many patches from
    └── CheckpointError
        ├── CheckpointMissing   no such file
        └── CheckpointInvalid   a file, but no checkpoint of a version that we know
"""


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
    """A list of images or a shard is not as its layout wants it."""


class SplitUnknown(DataError):
    """There are several splits, and none, or another, was named."""


class TooFewClasses(DataError):
    """A classifier needs two classes, of which one is generated."""


class RealLabelMissing(DataError):
    """Without photographs there is no decision between real and generated."""


class UnknownClass(DataError):
    """The checkpoint has no such label."""


class TooManyUnreadable(DataError):
    """More images are broken than the limit; the message lists the first."""


class NotInCorpus(DataError):
    """An experiment needs a generator that the corpus has not; the message says how to name a stand-in."""


class TooFewPhotographs(DataError):
    """There are not enough to split in three, or to cut so many patches from."""


class CheckpointError(TrainerError):
    """The checkpoint cannot be used."""


class CheckpointMissing(CheckpointError):
    """There is no such file."""


class CheckpointInvalid(CheckpointError):
    """The file is no checkpoint, or one of an unknown version."""
