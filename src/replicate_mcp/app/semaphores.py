"""Operations on semaphores: list, register, resize, and hold units of them."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from replicate_mcp.auth import NO_CREDENTIALS_MESSAGE, Access, Caller
from replicate_mcp.errors import InvalidInput, Unauthorized
from replicate_mcp.semaphores.names import (
    account_semaphore,
    check_limit,
    check_name,
    unknown_semaphore,
    visible_to,
)
from replicate_mcp.settings import Settings

if TYPE_CHECKING:
    from replicate_mcp.app.composition import Components
    from replicate_mcp.semaphores.context_permits import ContextPermit
    from replicate_mcp.semaphores.permit_store import PermitStore
    from replicate_mcp.semaphores.status import SemaphoreStatus


class SemaphoreOperations:
    """Operations on the backend's semaphores, by the names that callers use for them.

    Args:
        get_components: returns the process's components, opened by the first call that needs them.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        get_components: Callable[[], Awaitable["Components"]],
    ) -> None:
        self._settings = settings
        self._access = access
        self._get_components = get_components

    async def list_for(self, caller: Caller) -> "list[SemaphoreStatus]":
        """Return the semaphore of the caller's account, and the registered ones."""
        return await self._list_for(await self._get_components(), caller)

    async def list_own(self) -> "list[SemaphoreStatus]":
        """Return the registered semaphores, and the server's own account's if it has a token."""
        return await self._list_own(await self._get_components())

    async def register(self, name: str, limit: int) -> "SemaphoreStatus":
        """Register a name for this process's lifetime; return a known semaphore unchanged."""
        check_name(name)
        check_limit(limit)
        return await self._register(await self._get_components(), name, limit)

    async def resize(self, name: str, limit: int) -> "SemaphoreStatus":
        """Change a known semaphore's limit on behalf of a program."""
        check_limit(limit)
        return await self._resize(await self._get_components(), name, limit, by_admin=False)

    async def set(self, name: str, limit: int) -> "SemaphoreStatus":
        """Set a limit manually, which persists until it is set again; register a new name."""
        components = await self._get_components()
        is_new = name not in {state.name for state in await self._list_own(components)}
        if is_new:
            check_name(name)
        check_limit(limit)
        if is_new:
            await self._register(components, name, limit)
        return await self._resize(components, name, limit, by_admin=True)

    async def unset(self, name: str) -> "SemaphoreStatus | None":
        """Remove a limit that was set manually; the lowest that running processes declare applies.

        Returns:
            The semaphore; None if only the removed limit kept its name known.

        Raises:
            UnknownSemaphore: no such name.
        """
        components = await self._get_components()
        inside = await self._inside(components, name)
        components.dispatcher.dispatch(await components.backend.unset(inside))
        return _named(name, await self._list_own(components))

    async def remove(self, name: str) -> None:
        """Remove a registered name.

        Raises:
            UnknownSemaphore: no such name.
            SemaphoreInUse: it is in use, or another running process has registered it.
        """
        if name == self._settings.default_semaphore:
            raise InvalidInput(
                f"'{name}' is the account's own limit and cannot be removed: `replicate-mcp "
                f"semaphores unset {name}` drops a limit that was set by hand."
            )
        await (await self._get_components()).backend.remove(check_name(name))

    async def set_rate(self, per_minute: float) -> None:
        """Set the creations a minute of the server's own account; the setting persists."""
        components = await self._get_components()
        own = await self._inside(components, self._settings.default_semaphore)
        components.dispatcher.dispatch(await components.backend.set_rate(own, per_minute))

    async def acquire(self, lease: "ContextPermit") -> None:
        """Wait for a unit of the semaphore that `lease` names, for a caller's own code."""
        components = await self._get_components()
        lease.semaphore = await self._inside(components, lease.semaphore)
        await components.contexts.acquire(lease)

    async def release(self, lease: "ContextPermit") -> None:
        """Release a unit, or stop waiting for it."""
        await (await self._get_components()).contexts.release(lease)

    async def _list_for(self, components: "Components", caller: Caller) -> "list[SemaphoreStatus]":
        account = await components.account(caller.token, caller.source)
        return await _shown(components.backend, account, own_name=self._settings.default_semaphore)

    async def _list_own(self, components: "Components") -> "list[SemaphoreStatus]":
        if self._settings.token:
            return await self._list_for(components, self._access.authenticate_local())
        return await _shown(components.backend, "", own_name="")

    async def _register(self, components: "Components", name: str, limit: int) -> "SemaphoreStatus":
        if name != self._settings.default_semaphore:
            await components.backend.register(name, limit)
        return await self._known(components, name)

    async def _resize(
        self, components: "Components", name: str, limit: int, *, by_admin: bool
    ) -> "SemaphoreStatus":
        inside = await self._inside(components, name)
        components.dispatcher.dispatch(
            await components.backend.resize(inside, limit, by_admin=by_admin)
        )
        return await self._known(components, name)

    async def _known(self, components: "Components", name: str) -> "SemaphoreStatus":
        known = _named(name, await self._list_own(components))
        if known is None:  # The name is an account's own: without a token there is no account.
            raise Unauthorized(NO_CREDENTIALS_MESSAGE)
        return known

    async def _inside(self, components: "Components", name: str) -> str:
        """Return the backend's name of a semaphore."""
        if name != self._settings.default_semaphore:
            return name
        caller = self._access.authenticate_local()
        return account_semaphore(await components.account(caller.token, caller.source))


async def _shown(permits: "PermitStore", account: str, *, own_name: str) -> "list[SemaphoreStatus]":
    from replicate_mcp.semaphores.status import SemaphoreStatus

    states = visible_to(account, await permits.semaphores(), own_name=own_name)
    return [SemaphoreStatus.of(state, permits.scope) for state in states]


def _named(name: str, states: "list[SemaphoreStatus]") -> "SemaphoreStatus | None":
    return next((state for state in states if state.name == name), None)


async def resolve(
    permits: "PermitStore", account: str, named: str | None, *, default: str
) -> tuple[str, tuple[str, ...]]:
    """Return a batch's displayed semaphore name, and the semaphores that each task needs.

    Args:
        permits: the store of semaphores.
        account: the account of the batch.
        named: the name in the request; None for the account's own semaphore alone.
        default: the name under which callers know the semaphore of their account.

    Raises:
        InvalidInput: the name is not registered.
    """
    own = account_semaphore(account)
    if named is None or named == default:
        return default, (own,)
    name = check_name(named)
    known = {state.name for state in await permits.semaphores()}
    if name not in known:
        raise InvalidInput(unknown_semaphore(name, known))
    return name, (own, name)
