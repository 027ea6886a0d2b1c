"""The README says what the programs print."""

from conftest import ROOT, quantctl

README = (ROOT / "README.md").read_text()


def test_table_of_schemes_is_the_generated_one():
    assert quantctl("schemes", "--markdown").stdout.decode().strip() in README


def test_table_of_keys_is_the_generated_one():
    assert quantctl("schemes", "--keys", "--markdown").stdout.decode().strip() in README


def test_exit_codes_are_those_of_help():
    printed = quantctl("--help").stdout.decode().replace("\n", " ")
    for code in ("0 ok", "2 usage or bad input", "3 server unreachable or out of time", "4 I/O error", "5 other"):
        assert code in printed
        assert code in README.replace("\n", " ")
