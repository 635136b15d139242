"""What HAProxy says, as recorded from 2.6."""

from __future__ import annotations

from orchestrator.deploy.host.front import (
    Server,
    parse_servers,
    parse_sessions,
    parse_table,
    switched_file,
    unchecked,
)

HEAD = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "
    "srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port "
    "srv_check_addr srv_agent_addr srv_agent_port"
)
STATES = f"""1
{HEAD}
3 triton 1 blue 127.0.0.1 2 12 1 1 4 6 3 7 6 0 0 0 - 18001 - 0 18000 - - 0
3 triton 2 green 127.0.0.1 2 4 1 1 3 6 3 4 6 0 0 0 - 18101 - 0 18100 - - 0
5 gateway 1 blue 127.0.0.1 0 5 1 1 4 6 3 7 6 0 0 0 - 19000 - 0 0 - - 0
5 gateway 2 green 127.0.0.1 1 4 1 1 3 6 3 4 6 0 0 0 - 19100 - 0 0 - - 0
7 elsewhere 1 blue 127.0.0.1 2 0 1 1 3 6 3 4 6 0 0 0 - 19100 - 0 0 - - 0

"""
STAT = """# pxname,svname,qcur,qmax,scur,smax,check_rise,check_fall,check_health,
triton,FRONTEND,,,9,9,,,,
triton,blue,1,1,2,5,1,2,2,
triton,green,0,0,1,5,1,2,1,
triton,BACKEND,1,1,3,5,,,,
gateway,blue,,,4,5,1,3,3,
gateway,green,,,0,5,1,3,0,
riva,green,,,0,5,1,3,3,
other,blue,0,0,8,8,1,3,0,
"""
TABLE = """# table: triton, type: string, size:204800, used:3
0x1: key=17 use=0 exp=179000 shard=0 server_id=1 server_name=blue server_key=blue
0x2: key=18 use=1 exp=179000 shard=0 server_id=2 server_name=green server_key=green
0x3: key=bluer use=1 exp=179000 shard=0 server_id=3 server_key=bluer
"""


def test_states_of_the_slots_in_our_backends() -> None:
    assert parse_servers(STATES) == [
        Server("triton", "blue", "drain", True),
        Server("triton", "green", "ready", True),
        Server("gateway", "blue", "maint", False),
        Server("gateway", "green", "ready", False),
    ]
    assert parse_servers("1\n") == []


def test_sessions_and_queued_requests_of_a_slot() -> None:
    assert parse_sessions(STAT, "blue") == 7
    assert parse_sessions(STAT, "green") == 1


def test_a_slot_counts_as_seen_only_after_a_passed_check() -> None:
    assert unchecked(STAT, "blue") == []
    assert unchecked(STAT, "green") == ["triton", "gateway"]


def test_entries_of_a_stick_table() -> None:
    assert parse_table(TABLE, "blue") == 1


def test_a_state_file_switched_by_hand_says_so_when_it_is_read() -> None:
    written = switched_file(STATES, "blue")
    assert [(row.slot, row.admin) for row in parse_servers(written)] == [
        ("blue", "ready"),
        ("green", "maint"),
    ] * 2
    assert "7 elsewhere 1 blue 127.0.0.1 2 0" in written
    assert {row.admin for row in parse_servers(switched_file(STATES, None))} == {"maint"}
    assert switched_file("1\n", "blue") == "1\n"
