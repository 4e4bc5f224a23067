"""Error messages that are recorded for tasks of a process that has ended."""

INTERRUPTED = (
    "The process that ran this batch ended before this task was created. Nothing was billed: send "
    "it again."
)
CANCELED = "The batch was cancelled before this task was created."
OUT_OF_TIME = (
    "The batch's time was up before this task was created, while it waited for a process to run "
    "it: send it again."
)
OUTCOME_UNKNOWN = (
    "The process that ran this batch ended while this task's prediction ran, so its outcome is not "
    "known. It may have been billed: check replicate.com/predictions before sending it again."
)
OUTCOME_UNKNOWN_AFTER_RESTART = (
    "The process that ran this batch ended, and Redis was restarted and may have lost this task's "
    "outcome. It may have been billed: check replicate.com/predictions before sending it again."
)
