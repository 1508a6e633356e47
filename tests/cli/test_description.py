from whisper2max.cli.description import describe


def test_facts_are_lines_without_control_characters():
    facts = {
        "kind": "artifact",
        "name\x1b": "a\x1b[2J\nb",
        "dims": {"n_mels": 80, "n_\x07": "\udcff"},
        "files": {"a\n\x1b.mef": {"bytes": 12345, "sha256": "0123456789abcdef0123"}},
        "parity": None,
        "list": ["ü", "\x9b", 1.5],
        "graph": "one\x1b\ntwo\n",
    }
    assert list(describe(facts)) == [
        "kind: artifact",
        "name\\x1b: a\\x1b[2J\\nb",
        "dims:",
        "  n_mels: 80",
        "  n_\\x07: \\udcff",
        "files:",
        "        12,345  0123456789abcdef  a\\n\\x1b.mef",
        "parity: null",
        'list: ["ü", "\\x9b", 1.5]',
        "graph:\none\\x1b\ntwo",
    ]
