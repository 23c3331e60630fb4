"""Nothing that lies in a workdir or a data folder is ever run: seen in the source, call by call."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("arada", "configs", "launch") for path in (ROOT / folder).rglob("*.py"))
# Modules that load objects, and calls that run text.
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
RUNNERS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.unsafe_load"),
    *("pandas.read_pickle", "pd.read_pickle", "pickle.load", "pickle.loads", "numpy.load", "importlib.import_module"),
}
# The python version of CIFAR is a pickle: its reader calls nothing that a file names (data/sources/test_archives.py).
READS_A_PICKLE = "arada/data/sources/archives.py"


def violations(source, may_import=frozenset()):
    """What in a module could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {name}" for name in names if name.split(".")[0] in LOADERS - may_import)
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        if called in RUNNERS:
            yield called
        allow = keywords.get("allow_pickle")
        if called == "np.load" and not (isinstance(allow, ast.Constant) and allow.value is False):
            yield "np.load without allow_pickle=False"
        if "shell" in keywords:
            yield f"{called} with a shell"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_a_file_holds(path):
    may_import = {"pickle"} if str(path.relative_to(ROOT)) == READS_A_PICKLE else set()
    assert list(violations(path.read_text(), may_import)) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from joblib import load", "np.load(file)", "np.load(file, allow_pickle=True)"),
        *("np.load(file, allow_pickle=flag)", "eval(text)", "torch.load(file)", "subprocess.run(text, shell=True)"),
    ],
)
def test_what_is_looked_for_is_found(source):
    assert len(list(violations(source))) == 1


def test_the_reader_of_pickles_only_records():
    """No way around `find_class`, which looks nothing up."""
    tree = ast.parse((ROOT / READS_A_PICKLE).read_text())
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.Unpickler", "pickle.UnpicklingError"}
