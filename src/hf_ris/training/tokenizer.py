"""A small vocabulary of one's own, for models trained from scratch."""

import string
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import BertTokenizer


SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(words: Iterable[str], spell: bool = True) -> BertTokenizer:
    """
    Builds a BERT tokenizer that keeps the given words whole and spells out every other word in letters, or takes it for unknown.

    Args:
        words (`Iterable[str]`): Words that get a token of their own.
        spell (`bool`, *optional*, defaults to `True`): Whether letters do, too.

    Returns:
        `BertTokenizer`, uncased.
    """
    letters = string.ascii_lowercase + string.digits
    spelling = [*letters, *(f"##{letter}" for letter in letters), *".,'-!?"]
    vocabulary = list(dict.fromkeys([*SPECIAL_TOKENS, *(spelling if spell else ()), *sorted(set(words))]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return BertTokenizer(str(path), do_lower_case=True)
