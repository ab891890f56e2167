"""Fault A10: a model is bytes to the agent. Nothing it imports could run what a pickle brings."""

import ast
from pathlib import Path

import agent

RUNS_WHAT_IT_READS = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "torch",
    "marshal",
    "shelve",
    "numpy",
    "cloudpickle",
}
EVALUATES = {"eval", "exec", "compile", "__import__"}


def test_nothing_in_the_agent_can_run_what_a_model_brings():
    found = []
    for file in Path(agent.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Import(names=names):
                    found += [
                        name.name for name in names if name.name.partition(".")[0] in RUNS_WHAT_IT_READS
                    ]
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in RUNS_WHAT_IT_READS:
                    found.append(module)
                case ast.Call(func=ast.Name(id=name)) if name in EVALUATES:
                    found.append(f"{file.name}: {name}")
    assert found == []
