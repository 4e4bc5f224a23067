"""Fault injection: settings of the faults, and the choice of the fault for each request."""

import random
from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Rate = Annotated[float, Field(ge=0, le=1)]
"""Share of all cases, from 0 (never) to 1 (always); false and true are accepted."""

Call = Literal[
    "creation", "get", "cancel", "upload", "prediction", "list", "account", "model", "secret"
]
"""Kinds of calls into which faults are injected. The last five are GETs: of one prediction, of
the list of predictions, of the account, of a model, version or deployment, and of the webhooks'
secret."""

GETS: tuple[Call, ...] = ("prediction", "list", "account", "model", "secret")
"""Calls that also get the faults of `get`, after those of their own kind."""

ORDERS: Mapping[str, Call] = {
    "fault_next": "creation",
    "fault_next_get": "get",
    "fault_next_cancel": "cancel",
    "fault_next_upload": "upload",
    "fault_next_prediction": "prediction",
    "fault_next_list": "list",
    "fault_next_account": "account",
    "fault_next_model": "model",
    "fault_next_secret": "secret",
}
"""Setting that lists the faults of the next calls, mapped to its kind of call."""


class Fault(StrEnum):
    """Way in which a call fails; with the suffix `_after`, its effect has taken place."""

    REFUSED_400 = "400"
    REFUSED_401 = "401"
    REFUSED_403 = "403"
    REFUSED_404 = "404"
    THROTTLED = "429"
    ERROR_500 = "500"
    ERROR_502 = "502"
    ERROR_503 = "503"
    ERROR_504 = "504"
    ERROR_520 = "520"
    ERROR_529 = "529"
    ERROR_500_AFTER = "500_after"
    ERROR_502_AFTER = "502_after"
    ERROR_503_AFTER = "503_after"
    ERROR_504_AFTER = "504_after"
    ERROR_520_AFTER = "520_after"
    ERROR_529_AFTER = "529_after"
    RESET = "reset"
    RESET_AFTER = "reset_after"
    SILENCE = "silence"
    SILENCE_AFTER = "silence_after"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"

    @property
    def is_after(self) -> bool:
        """Whether a creation with this fault has created its prediction."""
        return self in _AFTER

    @property
    def spoils_answer(self) -> bool:
        """Whether a damaged response is sent."""
        return self in (Fault.TRUNCATED, Fault.MALFORMED)

    @property
    def http_status(self) -> int | None:
        """Status of the response, for faults that are HTTP errors; else None."""
        number = self.value.partition("_")[0]
        return int(number) if number.isdigit() else None


_AFTER = frozenset(
    fault
    for fault in Fault
    if fault.value.endswith("_after") or fault in ("truncated", "malformed")
)
_5XX = (Fault.ERROR_500, Fault.ERROR_502, Fault.ERROR_503, Fault.ERROR_504)
_5XX_AFTER = tuple(Fault(f"{fault}_after") for fault in _5XX)


def _fault_list(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


FaultList = Annotated[tuple[Fault, ...], BeforeValidator(_fault_list)]


class Faults(BaseModel):
    """Settings of the injected faults; the rates for one kind of call add up to at most 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    creation_429: Rate = Field(0, description="creations throttled though the rate allows them")
    creation_5xx: Rate = Field(0, description="creations answered 5xx, no prediction made")
    creation_5xx_after: Rate = Field(0, description="creations answered 5xx, prediction made")
    creation_reset: Rate = Field(0, description="creations reset, no prediction made")
    creation_reset_after: Rate = Field(0, description="creations reset, prediction made")
    creation_silence: Rate = Field(0, description="creations never answered, no prediction made")
    creation_silence_after: Rate = Field(0, description="creations never answered, prediction made")
    creation_truncated: Rate = Field(0, description="answers to creations cut in half")
    creation_malformed: Rate = Field(0, description="answers to creations that are no JSON")
    get_429: Rate = Field(0, description="GETs throttled though the rate allows them")
    get_5xx: Rate = Field(0, description="GETs answered 5xx")
    get_reset: Rate = Field(0, description="GETs reset")
    cancel_429: Rate = Field(0, description="cancels throttled though the rate allows them")
    cancel_5xx: Rate = Field(0, description="cancels answered 5xx, nothing cancelled")
    cancel_5xx_after: Rate = Field(0, description="cancels answered 5xx, cancelled all the same")
    cancel_reset: Rate = Field(0, description="cancels reset, nothing cancelled")
    fault_after_seconds: float = Field(
        0, ge=0, description="how long after acceptance an error, a reset or a silence strikes"
    )
    fault_next: FaultList = Field((), description="faults of the next creations, in order")
    fault_next_get: FaultList = Field((), description="faults of the next GETs, in order")
    fault_next_cancel: FaultList = Field((), description="faults of the next cancels, in order")
    fault_next_upload: FaultList = Field((), description="faults of the next uploads, in order")
    fault_next_prediction: FaultList = Field(
        (), description="faults of the next GETs of one prediction, in order"
    )
    fault_next_list: FaultList = Field(
        (), description="faults of the next GETs of the list of predictions, in order"
    )
    fault_next_account: FaultList = Field(
        (), description="faults of the next GETs of the account, in order"
    )
    fault_next_model: FaultList = Field(
        (), description="faults of the next GETs of a model, version or deployment, in order"
    )
    fault_next_secret: FaultList = Field(
        (), description="faults of the next GETs of the webhooks' secret, in order"
    )

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        for call in ("creation", "get", "cancel", "upload"):
            if sum(rate for _, rate in self.rates(call)) > 1 + 1e-9:
                raise ValueError(f"the fault rates of a {call} add up to more than 1")
        return self

    def rates(self, call: Call) -> list[tuple[tuple[Fault, ...], float]]:
        """Return the faults of this kind of call with their rates."""
        prefix = f"{call}_"
        return [
            (_faults_named(name.removeprefix(prefix)), getattr(self, name))
            for name in Faults.model_fields
            if name.startswith(prefix)
        ]


def _faults_named(name: str) -> tuple[Fault, ...]:
    return {"5xx": _5XX, "5xx_after": _5XX_AFTER}.get(name) or (Fault(name),)


class FaultInjector:
    """Choice of the fault for each request: first the ordered ones, then by rate.

    The random choices are reproducible for a seed.
    """

    def __init__(self, faults: Faults, seed: int) -> None:
        self._rng = random.Random(f"faults {seed}")  # noqa: S311 - reproducible on purpose
        self._ordered: dict[Call, deque[Fault]] = {call: deque() for call in ORDERS.values()}
        self._rates: dict[Call, list[tuple[tuple[Fault, ...], float]]] = {}
        self.configure(faults)
        for name, call in ORDERS.items():
            self.order(call, getattr(faults, name))

    def configure(self, faults: Faults) -> None:
        """Replace the rates; ordered faults stay."""
        for call in self._ordered:
            self._rates[call] = [(kinds, rate) for kinds, rate in faults.rates(call) if rate]

    def order(self, call: Call, faults: Iterable[Fault]) -> None:
        """Order one fault for each of the next calls of this kind; no faults clear the order."""
        ordered = tuple(faults)
        if ordered:
            self._ordered[call].extend(ordered)
        else:
            self._ordered[call].clear()

    def next_fault(self, call: Call) -> Fault | None:
        """Return the fault of this call, usually None."""
        family: Call = "get" if call in GETS else call
        for kind in (call, family):
            if ordered := self._ordered[kind]:
                return ordered.popleft()
        if not (rates := self._rates[family]):
            return None
        draw = self._rng.random()
        for kinds, rate in rates:
            if draw < rate:
                return self._rng.choice(kinds)
            draw -= rate
        return None
