"""Optional dependencies: imported when needed, and one error when they are missing."""

from __future__ import annotations

import sys

import pytest

from anystep._extras import need


def test_a_module_that_is_there_is_returned():
    import xml.dom.minidom

    assert need("xml.dom.minidom", extra="train", purpose="training") is xml.dom.minidom


def test_a_missing_module_names_the_purpose_and_the_extra():
    with pytest.raises(ImportError) as caught:
        need("no_such_module", extra="report", purpose="writing a report")
    assert (
        str(caught.value) == 'writing a report needs no_such_module: pip install "anystep[report]"'
    )


@pytest.mark.parametrize("module", ["no_such_module.part", "xml.no_such_part"])
def test_a_missing_part_of_a_module_is_missing_too(module):
    with pytest.raises(
        ImportError, match=rf'training needs {module}: pip install "anystep\[train\]"'
    ):
        need(module, extra="train", purpose="training")


def test_a_module_that_is_there_and_itself_lacks_something_says_what(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import half\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_installed", raising=False)
    with pytest.raises(ModuleNotFoundError, match="No module named 'half'"):
        need("half_installed", extra="train", purpose="training")


def test_a_module_that_is_broken_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise ImportError('libcudart is too old')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="libcudart is too old"):
        need("broken_module", extra="train", purpose="training")
