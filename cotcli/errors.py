"""The exceptions a user can meet, each with its exit code and its name in JSON records.

Knows nothing of the terminal: ``cotcli.cli`` turns these into one or two lines on stderr.

    CotcliError                 1   internal
    ├── UsageError              2   an option, a setting or a combination of them
    ├── ImageError              3   a picture that cannot be read
    ├── ModelError              4   a model that is missing, broken or of another architecture
    │   ├── ModelNotFoundError
    │   ├── HubError                (the hub cannot be reached, or does not give the model)
    │   └── CheckpointError         (met by convert: not the architecture, missing or misshapen tensors)
    ├── ResourceError           5   memory, disk or device
    │   └── ContextFullError        (a sequence's part of the key-value cache is full)
    ├── NoConclusionError       6   the answer ended before its conclusion
    └── Interrupted           130   Ctrl-C

A batch in which items failed raises none of these, since each has its record: it ends with `ITEMS_FAILED`.
"""

from __future__ import annotations

ITEMS_FAILED = 7


class CotcliError(Exception):
    """Base of all errors cotcli raises on purpose.

    Args:
        message: one line that says what is wrong.
        hint: an optional second line that names the next step, best as a command.
    """

    exit_code = 1
    code = "internal"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CotcliError):
    exit_code = 2
    code = "usage"


class ImageError(CotcliError):
    exit_code = 3
    code = "image"


class ModelError(CotcliError):
    exit_code = 4
    code = "model"


class ModelNotFoundError(ModelError):
    code = "model_not_found"


class HubError(ModelError):
    code = "hub"


class CheckpointError(ModelError):
    code = "checkpoint"


class ResourceError(CotcliError):
    exit_code = 5
    code = "resource"


class ContextFullError(ResourceError):
    pass


class NoConclusionError(CotcliError):
    exit_code = 6
    code = "no_conclusion"


class Interrupted(CotcliError):
    exit_code = 130
    code = "interrupted"
