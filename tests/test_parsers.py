"""What reads expressions: spaCy where it is installed with a model, rules where it is not; what means the same."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
from golden_states import read_json

from hf_ris.modeling import as_published, language_negatives, language_parsing
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.language_parsing import read_doc


def test_without_a_model_rules_read(monkeypatch):
    monkeypatch.setattr(language_parsing, "spacy", None)
    language_parsing.load_parser.cache_clear()
    language_parsing.parser_name.cache_clear()
    assert Expression("The Man on the left", language_parsing.load_parser("auto")).noun_phrase == "the man"
    with pytest.raises(ValueError, match="needs spaCy"):
        language_parsing.load_parser("en_core_web_sm")
    language_parsing.load_parser.cache_clear()
    language_parsing.parser_name.cache_clear()


def test_the_best_installed_model_is_taken(monkeypatch):
    loaded = []
    spacy = SimpleNamespace(
        util=SimpleNamespace(is_package=lambda name: name in ("en_core_web_md", "en_core_web_sm")),
        load=lambda name: loaded.append(name) or SimpleNamespace(),
    )
    monkeypatch.setattr(language_parsing, "spacy", spacy)
    language_parsing.load_parser.cache_clear()
    language_parsing.parser_name.cache_clear()
    language_parsing.load_parser()
    language_parsing.load_parser()
    assert loaded == ["en_core_web_md"]
    language_parsing.load_parser.cache_clear()
    language_parsing.parser_name.cache_clear()


def test_docs_of_spacy_are_read_as_published():
    """The published rule on spaCy's own objects: parses are recorded, words and dependencies are put into a `Doc`."""
    spacy = pytest.importorskip("spacy")
    vocab = spacy.blank("en").vocab
    for record in read_json("tas", "spatial.json"):
        tokens = record["parse"]["tokens"]
        doc = spacy.tokens.Doc(
            vocab,
            words=[token[0] for token in tokens],
            pos=[token[2] for token in tokens],
            deps=[token[4] for token in tokens],
            heads=[token[5] for token in tokens],
        )
        parse = read_doc(doc)
        assert [(word.text, word.head) for word in parse.words] == [(token[0], token[5]) for token in tokens]
        recorded = [tuple(chunk) for _, *chunk in record["parse"]["chunks"]]
        found = [(chunk.start, chunk.end, chunk.root) for chunk in parse.chunks]
        # The chunks are spaCy's rule on the parse, which has changed a little between its versions.
        expression = Expression(record["text"], lambda _: parse)  # noqa: B023
        if found == recorded and expression.chunk is not None:
            assert expression.noun_phrase == record["local_sent"].replace(";", " ;").replace(".", " .")


def test_words_are_split_before_they_are_parsed():
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    seen = []

    class Reader:
        make_doc = staticmethod(nlp.make_doc)

        def __call__(self, text):
            seen.append(text)
            doc = nlp.make_doc(text)
            return spacy.tokens.Doc(
                nlp.vocab, words=[t.text for t in doc], deps=["ROOT"] * len(doc), heads=list(range(len(doc)))
            )

    language_parsing.parse_with_spacy(Reader(), "Woman's  Shirt on right")
    assert seen == ["woman 's shirt on right"]


@pytest.mark.parametrize(
    ("noun", "lemma"),
    [
        ("dogs", "dog"),
        ("men", "man"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("glasses", "glass"),
        ("puppies", "puppy"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("grass", "grass"),
        ("us", "us"),
        ("cookies", "cookie"),
        ("tomatoes", "tomato"),
    ],
)
def test_lemmas(noun, lemma):
    assert lemma in language_negatives.lemmas(noun)
    assert language_negatives.are_near(noun, lemma)


def test_without_wordnet_words_are_compared(monkeypatch):
    monkeypatch.setattr(language_negatives, "wordnet", None)
    language_negatives.load_wordnet.cache_clear()
    assert as_published.count_near_pairs("dog", "puppy") == 0
    assert as_published.count_near_pairs("dog", "dogs") == as_published.MIN_NEAR_PAIRS
    assert not language_negatives.are_near("dog", "puppy")
    assert language_negatives.are_near("dog", "dog")
    language_negatives.load_wordnet.cache_clear()


def test_wordnets_meanings_are_compared(monkeypatch):
    """A WordNet of two words: "couch" and "sofa" share their first meaning, and have two more each."""
    meanings = {"couch": [1, 2, 3], "sofa": [1, 4, 5]}
    stub = SimpleNamespace(
        ensure_loaded=lambda: None,
        synsets=lambda noun, pos=None: meanings.get(noun, []),
        path_similarity=lambda one, other: 1.0 if one == other else None,
    )
    monkeypatch.setattr(language_negatives, "wordnet", stub)
    language_negatives.load_wordnet.cache_clear()
    assert as_published.count_near_pairs("couch", "sofa") == 1
    assert language_negatives.are_near("couch", "sofa")
    assert not language_negatives.are_near("couch", "dog")
    language_negatives.load_wordnet.cache_clear()


def test_spacy_keeps_no_words_of_those_who_ask():
    spacy = pytest.importorskip("spacy", minversion="3.8")
    nlp = spacy.blank("en")

    @spacy.Language.component("every_word_a_root")
    def every_word_a_root(doc):
        for token in doc:
            token.dep_, token.pos_ = "ROOT", "NOUN"
        return doc

    nlp.add_pipe("every_word_a_root")
    known = language_parsing.parse_with_spacy(nlp, "the man")
    strings, words = len(nlp.vocab.strings), len(list(nlp.vocab))
    texts = [f"the zqx{number} wvk{number}" for number in range(100)]
    with ThreadPoolExecutor(4) as threads:
        parses = list(threads.map(partial(language_parsing.parse_with_spacy, nlp), texts))
    assert [[word.text for word in parse.words] for parse in parses] == [text.split() for text in texts]
    assert (len(nlp.vocab.strings), len(list(nlp.vocab))) == (strings, words)
    with nlp.memory_zone():  # another's
        assert language_parsing.parse_with_spacy(nlp, "The  man").words == known.words
