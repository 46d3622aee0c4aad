"""The development profile and what wins over it."""

from __future__ import annotations

from deploy.profile import named, with_profile


def test_the_profile_holds_where_nothing_was_said() -> None:
    said = with_profile({}, {})
    assert said == {"ALLOWED_TARGET_NETWORKS": "127.0.0.0/8,::1/128", "DEV_RECEIVER": "true"}


def test_the_environment_wins_over_the_file_and_the_file_over_the_profile() -> None:
    said = with_profile({"API_PORT": "1"}, {"api_port": "2", "DEV_RECEIVER": "false"})
    assert said["API_PORT"] == "1"
    assert said["DEV_RECEIVER"] == "false"


def test_an_empty_value_wins_too() -> None:
    assert with_profile({"ALLOWED_TARGET_NETWORKS": ""}, {})["ALLOWED_TARGET_NETWORKS"] == ""
    assert with_profile({}, {"ALLOWED_TARGET_NETWORKS": None})["ALLOWED_TARGET_NETWORKS"] == ""


def test_an_empty_address_names_nothing() -> None:
    assert named({"DATABASE_URL": " "}, "DATABASE_URL") == ""
    assert named({}, "DATABASE_URL") == ""
