import logging

import pytest

from analysis.secrets import RedactingFormatter, redacted

PASSWORDS = [
    "hunter2",
    "hun/ter2",
    "hun@ter2",
    "hun%40ter2",
    "h:u:n:ter2",
    "/hun@ter/2@",
    "%",
    "#?",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("user", ["someone", "", "some%40one"])
def test_a_password_in_a_uri_is_hidden_and_the_rest_stays(user, password):
    uri = f"postgresql://{user}:{password}@db.example:5432/kdcurve?sslmode=require"
    expected = f"postgresql://{user}:***@db.example:5432/kdcurve?sslmode=require"
    assert redacted(uri) == expected
    assert redacted(f"cannot open {uri!r}, sorry") == f"cannot open {expected!r}, sorry"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "postgresql:///db?user=me&password=hunter2&x=1",
            "postgresql:///db?user=me&password=***&x=1",
        ),
        ("mysql://host/db?passwd=hunter2", "mysql://host/db?passwd=***"),
        ("pg://h/d?sslpassword=hunter2;token=hunter2", "pg://h/d?sslpassword=***;token=***"),
        ("host=db PASSWORD=hunter2 dbname=x", "host=db PASSWORD=*** dbname=x"),
        ("Driver={x};PWD=hunter2;Server=y", "Driver={x};PWD=***;Server=y"),
    ],
)
def test_a_password_among_settings_is_hidden(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000",
        "http://someone@host/path",
        "sqlite:////home/me/mlflow.db",
        "2 tokens of 5 = all, passwords in general, secretly",
        "random f=0.1 teacher=cnn4",
        "",
    ],
)
def test_text_without_secrets_stays_as_it_is(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "SOME_API_KEY",
        "my_password",
    ],
)
def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands(name, monkeypatch):
    monkeypatch.setenv(name, "correct horse.*")
    assert redacted("it says correct horse.* here") == "it says *** here"


def test_a_short_value_is_a_word_like_any_other(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "demo")
    assert redacted("kdcurve best demo") == "kdcurve best demo"


def test_a_secret_within_another_leaves_nothing_of_it(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdefghi")
    assert redacted("abcdefghi abcdef") == "*** ***"


def test_other_variables_are_not_secret(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-ish")
    monkeypatch.setenv("PASSWORD_FILE", "/etc/passwords")
    assert redacted("false-ish /etc/passwords") == "false-ish /etc/passwords"


def test_a_log_line_and_its_traceback_are_kept_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-mine")
    log = tmp_path / "kdcurve.log"
    handler = logging.FileHandler(log)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("test_secrets")
    logger.addHandler(handler)
    try:
        int("http://me:hunter2@host")
    except ValueError:
        logger.exception("with %s", "token-of-mine")
    finally:
        logger.removeHandler(handler)
        handler.close()
    written = log.read_text()
    assert written.startswith("ERROR with ***\n")
    assert "ValueError: invalid literal for int() with base 10: 'http://me:***@host'" in written
    assert "hunter2" not in written
