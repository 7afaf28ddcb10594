"""What ./run decides first: which environment, whether it fits, what it keeps from starting."""

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "run"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with a clone of its own in a temporary folder."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("airloom_run", str(SCRIPT))
    specification = importlib.util.spec_from_loader("airloom_run", loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "airloom_run", module)
    loader.exec_module(module)
    root = tmp_path / "clone"
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / "requirements.lock").write_text("a==1\n")
    (root / "requirements-dev.lock").write_text("a==1\nb==1\n")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def test_dev_holds_all_of_runtime_and_not_the_other_way_round(run: ModuleType) -> None:
    environment = run.Environment(run.environment_folder())
    assert not environment.fits("runtime")
    environment.stamp.write_text(environment.expected("runtime"))
    assert environment.fits("runtime")
    assert not environment.fits("dev")
    environment.stamp.write_text(environment.expected("dev"))
    assert environment.fits("runtime")
    assert environment.fits("dev")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_another_lock_or_interpreter_no_longer_fits(run: ModuleType, lock: str) -> None:
    environment = run.Environment(run.environment_folder())
    environment.stamp.write_text(environment.expected("dev"))
    (run.ROOT / lock).write_text("a==2\n")
    assert not environment.fits("dev")
    environment.stamp.write_text(environment.expected("dev"))
    environment.python.symlink_to(sys.executable)
    assert not environment.fits("dev")


def test_the_command_is_in_the_environment_whatever_it_was_set_up_for(run: ModuleType) -> None:
    environment = run.Environment(run.environment_folder())
    environment.python.symlink_to(sys.executable)
    environment.stamp.write_text(environment.expected("runtime"))
    package = run.ROOT / "airloom" / "cli"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("import sys\ndef main() -> None:\n    print('ran', *sys.argv[1:])\n")
    launcher = environment.folder / "bin" / "airloom"
    launcher.write_text("of a clone that was elsewhere")
    for _ in range(2):
        assert run.ensure_environment("runtime").folder == environment.folder
        done = subprocess.run([launcher, "sims"], capture_output=True, text=True, check=False, cwd="/")
        assert (done.returncode, done.stdout) == (0, "ran sims\n"), done.stderr
    assert sorted(path.name for path in launcher.parent.iterdir()) == ["airloom", "python"]


def test_a_clone_of_somebody_else_is_left_alone(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.environment_folder() == run.ROOT / ".venv"
    monkeypatch.setattr(run.os, "geteuid", lambda: run.ROOT.stat().st_uid + 1)
    folder = run.environment_folder()
    assert folder == run.cache_folder() / "venv"
    variables = run.tool_variables(run.Environment(folder))
    caches = ["PYTHONPYCACHEPREFIX", "MYPY_CACHE_DIR", "RUFF_CACHE_DIR", "HYPOTHESIS_STORAGE_DIRECTORY"]
    assert all(variables[name].startswith(str(run.cache_folder())) for name in caches)


def test_no_service_starts_while_packages_are_installed(run: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError), run.no_service_starts():
        assert subprocess.call([run.POLICY]) == 101
        raise ZeroDivisionError
    assert not run.POLICY.exists()


def test_a_policy_left_by_a_killed_run_is_removed_and_an_administrators_stays(run: ModuleType) -> None:
    run.POLICY.write_text(run.POLICY_TEXT)
    with run.no_service_starts():
        pass
    assert not run.POLICY.exists()
    run.POLICY.write_text("#!/bin/sh\nexit 0\n")
    with run.no_service_starts():
        assert run.POLICY.read_text() == "#!/bin/sh\nexit 0\n"
    assert run.POLICY.exists()


def test_a_stage_that_fails_stops_the_rest_and_is_in_the_summary(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = run.Environment(run.environment_folder())
    environment.python.symlink_to(sys.executable)
    monkeypatch.setattr(run, "ensure_environment", lambda kind: environment)
    fails = run.Stage(["no_such_module"], "make it")
    code = run.run_stages({"one": run.Stage(["this"], ""), "two": fails, "three": run.Stage(["this"], "")})
    summary = capfd.readouterr().out.partition("summary:")[2]
    assert code == 1
    assert ["passed" in line for line in summary.split("\n")[1:4]] == [True, False, False]
    assert "two      FAILED" in summary
    assert "to mend it: make it\n" in summary
    assert "three    not run" in summary


def test_bytecode_is_kept_though_it_shall_not_be_written_beside_the_sources(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = run.Environment(run.environment_folder())
    variables = run.tool_variables(environment)
    assert "PYTHONDONTWRITEBYTECODE" not in variables
    assert variables["PYTHONPYCACHEPREFIX"] == str(environment.folder / "pycache")


@pytest.mark.parametrize(
    ("command", "stages"),
    [("check", ["format", "lint", "types", "tests"]), ("test", ["format", "lint", "types", "tests", "e2e"])],
)
def test_help_of_a_command_explains_its_stages(
    run: ModuleType, capsys: pytest.CaptureFixture[str], command: str, stages: list[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        run.main([command, "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {stage:<7} " in shown for stage in stages)
    assert "Exit code: 0" in shown


def test_help_names_every_command(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in run.COMMANDS)
    assert run.main(["nothing"]) == 2


@pytest.mark.parametrize(
    ("paths", "name", "options"),
    [
        ([], None, ["-n", "2", "-m", "not e2e", "tests/unit", "tests/test_b.py"]),
        (["tests"], None, ["-n", "2", "-m", "not e2e", "tests"]),
        (["tests/e2e"], None, ["tests/e2e"]),
        ([], "leases", ["-n", "2", "-m", "not e2e", "-k", "leases", "tests"]),
        (["tests/unit"], None, ["-n", "2", "-m", "not e2e", "tests/unit"]),
        (["tests/unit/test_a.py::test_b"], None, ["-m", "not e2e", "tests/unit/test_a.py::test_b"]),
        (["tests/e2e/test_c.py"], None, ["tests/e2e/test_c.py"]),
    ],
)
def test_the_tests_that_are_named_are_run(
    run: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    paths: list[str],
    name: str | None,
    options: list[str],
) -> None:
    for file in ("tests/test_b.py", "tests/unit/test_a.py", "tests/e2e/test_c.py"):
        (run.ROOT / file).parent.mkdir(parents=True)
        (run.ROOT / file).touch()
    monkeypatch.chdir(run.ROOT)
    assert run.chosen_tests(paths, name)["tests"].command == ["pytest", "-q", *options]


def test_a_path_that_is_not_there_is_named(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["check", "tests/unit/test_nothing.py"]) == run.EXIT_SETUP
    assert "test_nothing.py does not exist" in capsys.readouterr().err


def test_a_word_that_no_test_has_is_told_from_a_test_that_fails(run: ModuleType) -> None:
    tests = run.chosen_tests([], "no such word")["tests"]
    assert "no test has this path or name" in run.mend_of(tests, run.PYTEST_FOUND_NOTHING)
    assert run.mend_of(tests, 1) == run.ONE_TEST


def test_uv_is_given_the_mirror_and_the_certificates_of_pip(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = (
        "global.cert='/etc/ca.pem'\nglobal.index-url='https://a/simple'\nuser.index-url='https://b/simple'\n"
    )
    sources = dict(run.sources_of(listing + "global.timeout='9'\n"))
    assert sources == {"SSL_CERT_FILE": "/etc/ca.pem", "UV_DEFAULT_INDEX": "https://b/simple"}


def test_certificates_of_the_system_are_trusted_unless_it_is_said_otherwise(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = [sys.executable, "-c", "import os; open('told', 'w').write(os.environ['UV_SYSTEM_CERTS'])"]
    monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
    run.call(asked, "it could not be asked")
    assert (run.ROOT / "told").read_text() == "true"
    monkeypatch.setenv("UV_SYSTEM_CERTS", "false")
    run.call(asked, "it could not be asked")
    assert (run.ROOT / "told").read_text() == "false"


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [((0, 0, 0), 0), ((1, 1, 0), 2), ((1, 1, 1), 0), ((1, 0, 0), 1)],
    ids=["its own", "the second on PATH", "none is optimised", "the first on PATH"],
)
def test_an_environment_is_made_with_an_optimised_python_where_there_is_one(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codes: tuple[int, ...], wanted: int
) -> None:
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = []
    for number, code in enumerate(codes):
        python = tmp_path / str(number) / name
        python.parent.mkdir()
        python.write_text(f"#!/bin/sh\nexit {code}\n")
        python.chmod(0o755)
        pythons.append(str(python))
    monkeypatch.setattr(sys, "executable", pythons[0])
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / each) for each in ("1", "none", "2")))
    assert run.chosen_python() == pythons[wanted]


def test_what_an_optimised_python_is_asked_is_answered_by_each(run: ModuleType) -> None:
    assert run.call_python(sys.executable, run.OPTIMISED) in (0, 1)
    assert run.call_python("/nowhere/python3", run.OPTIMISED) == run.EXIT_SETUP
