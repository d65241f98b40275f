"""Optional dependencies: imported when needed, and one error when they are missing."""

from __future__ import annotations

import sys

import pytest

from anystep._extras import need


def test_a_module_that_is_there_is_returned():
    import xml.dom.minidom

    assert need("xml.dom.minidom", extra="train", purpose="training") is xml.dom.minidom


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.part", "xml.no_such_part"])
def test_a_missing_module_names_the_purpose_and_the_extra(module):
    with pytest.raises(ImportError) as caught:
        need(module, extra="train", purpose="training")
    assert str(caught.value) == f'training needs {module}: pip install "anystep[train]"'


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import half", "No module named 'half'"),
        ("raise ImportError('libcudart is too old')", "libcudart is too old"),
    ],
)
def test_a_module_that_is_there_and_fails_keeps_its_own_error(tmp_path, monkeypatch, code, message):
    (tmp_path / "half_installed.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_installed", raising=False)
    with pytest.raises(ImportError, match=message):
        need("half_installed", extra="train", purpose="training")
