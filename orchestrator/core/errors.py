"""Every error of the project, so that one `except` at the CLI knows all of them.

    OrchestrateError            2   base; one line: where, what, what to do
      ConfigError               2   what a person wrote; carries every problem found
      UsageError                2   a command line that makes no sense
        RunNotFound             2   no such run
      TransportError            3   a host cannot be reached or the connection broke
        ConnectError            3   refused, no route, unknown name, timed out
        AuthenticationError     3   no key was accepted
        HostKeyError            3   the host's key is unknown or has changed
        CommandTimeout          3   a remote command gave no answer in time
        AnswerError             3   a host answered with something that cannot be an answer
      AgentError                4   a host's agent refused or failed a request
      PreflightError            4   a host is not fit for the job
        ToolOutputError         4   an Ascend tool or file on a host says something that cannot be used
      HostsFailed               *   several hosts, each with its error; the gravest exit code
      RunFailed                 1   the run ended in failure
      CheckpointError           2   a shard, strategy or output file that cannot be used
      Interrupted               5   Ctrl-C or a signal before the work was done

AssumedWarning is no error: what was assumed of a file that a person wrote. `words_by_host` has the same words
for the same of many hosts.

The number is the exit code of the CLI: 1 means that the run failed, and nothing else.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from orchestrator.core.visible_text import visible

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "AgentError",
    "AnswerError",
    "AssumedWarning",
    "AuthenticationError",
    "CheckpointError",
    "CommandTimeout",
    "ConfigError",
    "ConnectError",
    "HostKeyError",
    "HostsFailed",
    "Interrupted",
    "OrchestrateError",
    "PreflightError",
    "Problem",
    "RunFailed",
    "RunNotFound",
    "ToolOutputError",
    "TransportError",
    "UsageError",
    "words_by_host",
]


_LONGEST_PART = 1500  # characters: more than anybody reads of a message


def one_line(where: str, what: str, remedy: str) -> str:
    """Join the three parts of a message; empty parts leave no trace.

    They quote what strangers' files and hosts say: here, for all of them, what a terminal would obey is made
    visible, and what has no end is cut.
    """
    where, what = _shown(where), _shown(what)
    text = f"{where}: {what}" if where else what
    return f"{text} ({visible(remedy)})" if remedy else text


def _shown(text: str) -> str:
    text = visible(text)
    if len(text) <= _LONGEST_PART:
        return text
    return f"{text[:_LONGEST_PART]} … ({len(text) - _LONGEST_PART} characters more)"


class AssumedWarning(UserWarning):
    """Something was assumed of a file that a person wrote; the CLI tells it in a line, as a note."""


class OrchestrateError(Exception):
    """What went wrong, where, and what to do about it."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return one_line(self.where, self.what, self.remedy)

    def lines(self) -> list[str]:
        """The message as the CLI prints it, one line per problem."""
        return [str(self)]


class Problem:
    """One thing that is wrong in a file a person wrote; `where` is `file:line: key`."""

    __slots__ = ("remedy", "what", "where")

    def __init__(self, where: str, what: str, remedy: str = "") -> None:
        self.where = where
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return one_line(self.where, self.what, self.remedy)


class ConfigError(OrchestrateError):
    """Something in YAML, JSON or a flag; all problems that were found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(first.what, where=first.where, remedy=first.remedy)
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        return [str(problem) for problem in self.problems]


class UsageError(OrchestrateError):
    """A command line that asks for something that cannot be."""

    exit_code = 2


class RunNotFound(UsageError):
    """No run of this name is known here."""


class TransportError(OrchestrateError):
    """The connection to a host failed; `where` is the host's name."""

    exit_code = 3


class ConnectError(TransportError):
    """No connection: refused, unreachable, unknown name or timed out.

    `refused`: the host itself said no, so that it is known to be there.
    """

    refused = False


class AuthenticationError(TransportError):
    """The host is there but accepts none of our keys."""


class HostKeyError(TransportError):
    """The host's key is not in known_hosts, or is not the one that is.

    `of_many` is what to say where it is so of several hosts: what, the remedy, and a command that goes on
    from it, with `{}` for their addresses, of which `address` is this one's. Empty: its own words alone.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        of_many: tuple[str, str, str] = ("", "", ""),
        address: str = "",
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.of_many = of_many
        self.address = address


class CommandTimeout(TransportError):
    """The host is connected but a command gave no answer in time."""


class AnswerError(TransportError):
    """What a host answered is not of the type that was asked for, or over its bounds: nothing of it is used.

    A TransportError, because such a host is treated as one that cannot be reached: its session is closed.
    """


class AgentError(OrchestrateError):
    """A host's agent refused a request; `kind` names the reason for code, the text is for people."""

    exit_code = 4

    def __init__(self, what: str, *, where: str = "", remedy: str = "", kind: str = "error") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.kind = kind


class PreflightError(OrchestrateError):
    """A host was reached and is not fit for the job."""

    exit_code = 4


class ToolOutputError(PreflightError):
    """What `hccn_tool`, `npu-smi` or /etc/hccn.conf says cannot be used; the message shows the line."""


class RunFailed(OrchestrateError):
    """The run ended in failure; the message names the rank that caused it."""

    exit_code = 1


class CheckpointError(OrchestrateError):
    """A shard, a strategy or an output file that cannot be used."""


class Interrupted(OrchestrateError):
    """Stopped by a person before the work was done."""

    exit_code = 5


# So many addresses make a command that a person can still look over.
_MOST_ADDRESSES = 16


def words_by_host(errors: Mapping[str, OrchestrateError]) -> dict[str, tuple[str, str]]:
    """What is wrong with each host, and the remedy: the same words where it is the same of many hosts."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for error in errors.values():
        if isinstance(error, HostKeyError) and error.of_many[0]:
            alike.setdefault(error.of_many, []).append(error.address)
    words = {}
    for host, error in errors.items():
        addresses = alike.get(error.of_many, ()) if isinstance(error, HostKeyError) else ()
        if isinstance(error, HostKeyError) and len(addresses) > 1:
            what, remedy, command = error.of_many
            if command and len(addresses) <= _MOST_ADDRESSES:
                remedy += command.replace("{}", " ".join(addresses), 1)
            words[host] = (what, remedy)
        else:
            words[host] = (error.what, error.remedy)
    return words


class HostsFailed(OrchestrateError):
    """Several hosts failed; equal messages are told once with all their hosts."""

    def __init__(self, errors: Mapping[str, OrchestrateError]) -> None:
        super().__init__(f"{len(errors)} host(s) failed")
        self.errors: dict[str, OrchestrateError] = dict(errors)
        # What a host refused says less than that another is away, or is unfit for all that is asked.
        graver = [each.exit_code for each in errors.values() if not isinstance(each, AgentError)]
        self.exit_code = max(graver, default=AgentError.exit_code)

    def hosts_by_message(self) -> dict[str, list[str]]:
        """Each different message with the hosts it holds for."""
        found: dict[str, list[str]] = {}
        for host, words in words_by_host(self.errors).items():
            found.setdefault(one_line("", *words), []).append(host)
        return found

    def lines(self) -> list[str]:
        return [f"{', '.join(hosts)}: {text}" for text, hosts in self.hosts_by_message().items()]

    def __str__(self) -> str:
        return "; ".join(self.lines())

    @classmethod
    def of(cls, errors: Mapping[str, OrchestrateError]) -> OrchestrateError:
        """The error of the host where only one failed, else one for all of them."""
        return next(iter(errors.values())) if len(errors) == 1 else cls(errors)
