from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import resources
from orchestrator.errors import ConfigurationError

CHECKOUT = Path(__file__).resolve().parents[1]


def test_a_checkout_uses_its_own_folders() -> None:
    assert resources.model_repository() == CHECKOUT / "model_repository"
    assert resources.playbooks() == CHECKOUT / "playbooks"
    assert resources.compose() == CHECKOUT / "compose"
    assert resources.example_config() == CHECKOUT / "docs/spark-speech.example.toml"


def test_an_installed_package_uses_its_copies(tmp_path: Path) -> None:
    package = tmp_path / "site-packages/orchestrator"
    (package / "_data").mkdir(parents=True)
    assert resources.data_root(package) == package / "_data"


def test_a_broken_installation_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "orchestrator")
    with pytest.raises(ConfigurationError, match=r"incomplete: .*playbooks is missing") as caught:
        resources.playbooks()
    assert caught.value.fix is not None
    assert "install" in caught.value.fix
