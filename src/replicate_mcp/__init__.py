"""Image generation on Replicate from lists of prompts, under shared global semaphores.

from replicate_mcp import generate_images

result = await generate_images([{"prompt": "a red car", "output_filename": "red_car.jpg"}])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replicate_mcp.batches.progress import Progress
    from replicate_mcp.errors import ReplicateMcpError
    from replicate_mcp.python_api import (
        ExternalSemaphoreContext,
        generate_images,
        generate_images_sync,
        get_global_semaphore,
        list_global_semaphores,
        register_global_semaphore,
        resize_global_semaphore,
        retry_batch,
    )
    from replicate_mcp.semaphores.status import SemaphoreStatus
    from replicate_mcp.tasks.result import BatchResult, GeneratedFile, TaskFailure, TaskSuccess

__all__ = [
    "BatchResult",
    "ExternalSemaphoreContext",
    "GeneratedFile",
    "Progress",
    "ReplicateMcpError",
    "SemaphoreStatus",
    "TaskFailure",
    "TaskSuccess",
    "generate_images",
    "generate_images_sync",
    "get_global_semaphore",
    "list_global_semaphores",
    "register_global_semaphore",
    "resize_global_semaphore",
    "retry_batch",
]

_MODULES = {
    "BatchResult": "tasks.result",
    "GeneratedFile": "tasks.result",
    "Progress": "batches.progress",
    "ReplicateMcpError": "errors",
    "SemaphoreStatus": "semaphores.status",
    "TaskFailure": "tasks.result",
    "TaskSuccess": "tasks.result",
}
"""Module of each public name that is not in `python_api`."""


def __getattr__(name: str) -> Any:
    """Import a public name on first access: starting the server requires none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'replicate_mcp' has no attribute '{name}'")
    import importlib

    module = _MODULES.get(name, "python_api")
    return getattr(importlib.import_module(f"replicate_mcp.{module}"), name)
