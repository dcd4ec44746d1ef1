"""The start of a job's own Python program, so that it writes its stacks to its log at SIGUSR1; else as ever.

    python [OPTIONS] python_stacks.py FILE -- SCRIPT [ARGUMENTS]
    python [OPTIONS] python_stacks.py FILE -m MODULE [ARGUMENTS]
    python [OPTIONS] python_stacks.py FILE -c TEXT [ARGUMENTS]

A worker that is `python [OPTIONS] SCRIPT` is started so by its supervisor (`python_program`), which finds
in FILE what is announced. `__main__`, sys.argv, sys.path, sys.orig_argv, exit codes and tracebacks are those
that the program has without this. Where it takes SIGUSR1 for something else, the announcement is taken back.
This file runs by itself, under any Python, also one that is far older than ours: hence its plain syntax.
"""

import os
import pkgutil
import runpy
import signal
import sys
import types

__all__ = ["main"]

_HERE = __file__
_SIGNAL = getattr(signal, "SIGUSR1", None)


def main():
    # type: () -> None
    """Announce, and become the program."""
    given = len(sys.argv)
    announced, form, what = sys.argv[1:4]
    arguments = sys.argv[4:]
    begun = ([form] if form != "--" else []) + [what] + arguments
    whole = getattr(sys, "orig_argv", None)
    if whole is not None:
        whole[-given:] = begun
    _announce(announced)
    _hide_this_file()
    if form == "-m":
        _enter(os.getcwd() if sys.version_info >= (3, 7) else "", ["-m"] + arguments)
        sys.modules["__main__"] = types.ModuleType("__main__")
        runpy._run_module_as_main(what)  # type: ignore[attr-defined]  # what Python itself does for -m
    elif form == "-c":
        _enter("", ["-c"] + arguments)
        exec(compile(what, "<string>", "exec", dont_inherit=True), _new_main(None))
    else:
        _run_script(what, arguments)


def _announce(path):
    # type: (str) -> None
    """Have SIGUSR1 write the stacks to stderr, and say so in this file; without either all goes on."""
    try:
        import faulthandler  # late: none is needed, and an old Python has none

        assert _SIGNAL is not None
        faulthandler.register(_SIGNAL, file=2, all_threads=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(handle, b"stacks\n")
        os.close(handle)
    except Exception:
        return
    process, real = os.getpid(), signal.signal

    def guarded(number, handler):
        # type: (int, object) -> object
        if number == _SIGNAL and os.getpid() == process:
            try:
                os.unlink(path)
            except OSError:
                pass
        return real(number, handler)  # type: ignore[arg-type]

    guarded.__name__, guarded.__doc__ = real.__name__, real.__doc__
    signal.signal = guarded  # type: ignore[assignment]


def _hide_this_file():
    # type: () -> None
    """Leave the frames of this file out of a traceback that ends the program."""
    shown = sys.excepthook

    def hook(kind, value, trace):
        # type: (type, BaseException, object) -> None
        while isinstance(trace, types.TracebackType) and trace.tb_frame.f_code.co_filename == _HERE:
            trace = trace.tb_next
        value.__traceback__ = trace  # type: ignore[assignment]
        shown(kind, value, trace)  # type: ignore[arg-type]

    sys.excepthook = hook


def _enter(first, argv):
    # type: (str, list[str]) -> None
    """Set what Python sets for a program: its arguments, and where its modules are looked for first."""
    sys.argv[:] = argv
    if not (getattr(sys.flags, "isolated", False) or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = first


def _new_main(path):
    # type: (str | None) -> dict[str, object]
    """The names of an empty `__main__`, which takes the place of this module."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    names = vars(module)
    names["__builtins__"] = globals()["__builtins__"]
    if path is not None:
        names["__file__"] = path
    if sys.version_info >= (3, 3):
        from importlib import machinery  # late: an older Python has none

        loader = machinery.BuiltinImporter if path is None else machinery.SourceFileLoader("__main__", path)
        names["__loader__"] = loader
        names.update({} if path is None else {"__cached__": None})
    return names


def _run_script(path, arguments):
    # type: (str, list[str]) -> None
    name = os.path.join(os.getcwd(), path) if sys.version_info >= (3, 9) else path
    # A folder or a zip with a `__main__.py`.
    if os.path.isdir(name) or type(pkgutil.get_importer(name)).__name__ == "zipimporter":
        _enter(name, [path] + arguments)
        sys.modules["__main__"] = types.ModuleType("__main__")
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    _enter(os.path.dirname(os.path.realpath(path)), [path] + arguments)
    try:
        with open(name, "rb") as file:
            code = pkgutil.read_code(file) if path.endswith(".pyc") else None
            if code is None:
                file.seek(0)
                code = compile(file.read(), name, "exec", dont_inherit=True)
    except (IOError, OSError) as error:
        # As Python says it.
        sys.stderr.write(
            "%s: can't open file %r: [Errno %s] %s\n" % (sys.executable, name, error.errno, error.strerror)
        )
        sys.exit(2)
    exec(code, _new_main(name))


if __name__ == "__main__":
    main()
