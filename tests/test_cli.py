"""The command line: verbs, help with examples, and errors without tracebacks."""

import subprocess
import sys

import pytest

from prd_lightning import cli


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert f"prd {verb}" in capsys.readouterr().out.partition("examples:")[2]


def test_the_list_of_verbs_imports_no_torch():
    lines = ["import sys", "from prd_lightning import cli", "try:", "    cli.main(['--help'])", "except SystemExit:"]
    script = "\n".join([*lines, "    print('torch' in sys.modules)"])
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("False") and all(verb in shown for verb in cli.VERBS)


def test_an_unknown_verb_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["paint"])
    assert caught.value.code == 2
    assert "train" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_status_2(capsys):
    assert cli.main(["train", "teacher=nobody"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("prd train: error:") and "richdreamer" in shown and "Traceback" not in shown
