import http.server
import json
import threading

import pytest

from aer_lightning.data.rewards import (
    Correctness,
    Format,
    Grade,
    HttpReward,
    Length,
    Outcome,
    PythonFunction,
    RewardFunction,
    RewardRequest,
)
from aer_lightning.errors import ConfigError


def request(completion, grade=None, tokens=None, answer="a", prompt="p"):
    return RewardRequest(completion, answer, prompt, grade or Grade(Outcome.WRONG), tokens)


def two(completion, answer):
    return len(completion) + len(answer)


def everything(*arguments):
    return len(arguments)


NO_FUNCTION = 3


def test_correctness_is_the_graders_score():
    grades = [Grade(Outcome.CORRECT), Grade(Outcome.WRONG), Grade(Outcome.WRONG, score=0.3), Grade(Outcome.CORRECT, score=2.0)]
    assert Correctness().score([request("", grade) for grade in grades]) == [1.0, 0.0, 0.3, 2.0]


def test_format_searches_over_line_ends():
    assert Format().score([request("so\n\\boxed{1\n}"), request("1")]) == [1.0, 0.0]
    assert Format("^<think>.*</think>").score([request("<think>\na\n</think> b"), request("b <think></think>")]) == [1.0, 0.0]
    with pytest.raises(ConfigError, match="no regular expression"):
        Format("(")


def test_length_falls_in_a_straight_line():
    assert Length(200, 100).score([request("", tokens=n) for n in (50, 100, 150, 200, 250)]) == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert Length(4).score([request("one two")]) == [0.5]
    with pytest.raises(ConfigError, match="free"):
        Length(10, 10)


def test_a_python_function_gets_as_much_as_it_takes():
    assert PythonFunction(f"{__name__}.two").score([request("abc")]) == [4.0]
    assert PythonFunction(f"{__name__}.everything").score([request("abc")]) == [3.0]
    for path, message in ((f"{__name__}.nothing", "no function"), ("absent.module.f", "no function"), (f"{__name__}.NO_FUNCTION", "int")):
        with pytest.raises(ConfigError, match=message):
            PythonFunction(path)


def test_a_server_scores_a_batch_in_one_request():
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            reply = json.dumps({"scores": [len(text) / 10 for text in body["completions"]]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        reward = HttpReward(f"http://127.0.0.1:{server.server_port}/score", timeout_s=10)
        assert reward.score([request("ab"), request("abc", answer=7)]) == [0.2, 0.3]
    finally:
        server.shutdown()
        server.server_close()
    assert bodies == [{"completions": ["ab", "abc"], "answers": ["a", 7], "prompts": ["p", "p"]}]
    with pytest.raises(ConfigError, match="http"):
        HttpReward("file:///etc/passwd")


def test_they_are_reward_functions():
    assert all(isinstance(f, RewardFunction) for f in (Correctness(), Format(), Length(1), HttpReward("http://x")))
