import pytest

from loadtest.errors import openai_message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "no decode instance", "code": 503}}', "no decode instance"),
        ('{"error": "no decode instance"}', "no decode instance"),
        ('{"error": {"code": 503}}', '{"error": {"code": 503}}'),
        ('{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        ("<h1>Bad Gateway</h1>\n", "<h1>Bad Gateway</h1>"),
        ("[]", "[]"),
        ("", ""),
        ("x" * 5000, "x" * 200),
    ],
)
def test_openai_message(body: str, message: str) -> None:
    assert openai_message(body) == message
