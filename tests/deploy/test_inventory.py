from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.deploy import inventory
from orchestrator.deploy.inventory import Host, Inventory, hosts_of
from orchestrator.errors import InventoryError

LISTING = {
    "_meta": {
        "hostvars": {
            "spark1": {
                "ansible_host": "10.0.0.1",
                "ansible_become_password": {"__ansible_unsafe": "{{ x }}"},
            },
            "balancer": {"ansible_host": "10.0.0.9"},
        }
    },
    "all": {"children": ["ungrouped", "sparks", "load_balancers"]},
    "sparks": {"children": ["new", "old"]},
    "old": {"hosts": ["spark1", "spark2"]},
    "new": {"hosts": ["spark3", "spark1"], "children": ["sparks"]},
    "load_balancers": {"hosts": ["balancer"]},
}


def test_hosts_are_those_of_the_group_and_its_children_each_once() -> None:
    assert [host.name for host in hosts_of(LISTING)] == ["spark3", "spark1", "spark2"]


def test_values_that_are_no_templates_are_unwrapped() -> None:
    host = hosts_of(LISTING)[1]
    assert host.variables == {"ansible_host": "10.0.0.1", "ansible_become_password": "{{ x }}"}


def test_a_hosts_variables_are_not_shown() -> None:
    assert "secret" not in repr(Host("a", {"ansible_become_password": "secret"}))


def test_a_host_lives_where_its_variables_say() -> None:
    assert Host("a").home == "/var/lib/spark-speech"
    assert Host("a", {"spark_speech_home": "/srv/s"}).home == "/srv/s"


@pytest.mark.parametrize("listing", [{}, {"sparks": {}}, {"sparks": None}, {"all": {"hosts": ["a"]}}])
def test_no_group_no_hosts(listing: dict[str, object]) -> None:
    assert hosts_of(listing) == ()


def test_a_missing_inventory_names_the_file_and_the_setting(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"there is no inventory.*hosts\.yml") as caught:
        inventory.read(tmp_path / "hosts.yml")
    assert "deploy.inventory" in str(caught.value.fix)
    assert caught.value.exit_code == 2


def test_an_unknown_host_names_the_known_ones() -> None:
    hosts = Inventory(Path("i.yml"), (Host("spark1"), Host("spark2")))
    assert hosts.host("spark2").name == "spark2"
    with pytest.raises(InventoryError) as caught:
        hosts.host("spark3")
    assert caught.value.fix == "it has: spark1, spark2"


def test_the_command_carries_limit_and_vault() -> None:
    command = inventory.list_command(Path("i"), limit="a:b", vault_password_file=Path("v"))
    assert command[1:] == ["--inventory", "i", "--list", "--limit", "a:b", "--vault-password-file", "v"]
