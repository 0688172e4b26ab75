"""FLOPs that cannot be counted make a figure uncertain, not the result: the study starts."""

NEEDS_TABLE = """from variants.attention.mha import MultiHead
class NeedsTable(MultiHead):
    def forward(self, x, positions, positional, *others):
        positional.wpe
        return super().forward(x, positions, positional, *others)

    def flops_per_token(self, seq_len):
        return super().flops_per_token(seq_len)
"""


def test_flops_that_cannot_be_counted_are_a_warning(study):
    """The counter calls an attention without a positional encoding."""
    file = study.harness.folder / "mine/attention/table.py"
    file.parent.mkdir(parents=True)
    file.write_text(NEEDS_TABLE)
    study.write("mine", attention='["table"]')
    printed = study.run("--dry-run")
    assert "warning: learned-table: flops:" in printed and "table.py:4" in printed
    assert "the FLOPs cannot be counted: AttributeError" in printed
