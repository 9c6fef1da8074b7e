"""The page in a real Chromium without a window. `make test-browser` runs these.

WORLD_MODEL_ROS_PICTURE=docs/view.png keeps the picture that the docs show.
"""

import os
import re
import shutil
import signal

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver is the extra browser")
pytest.importorskip("aiohttp", reason="the page needs aiohttp, the extra view")
pytestmark = [pytest.mark.ros, pytest.mark.browser]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 60_000  # ms for anything to happen on a busy machine
WIDE, NARROW = {"width": 1280, "height": 850}, {"width": 375, "height": 812}


@pytest.fixture(scope="module")
def chromium():
    """Return a running browser."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt install chromium")
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Return a function that opens an address in a browser of its own, and returns the page.

    Its scripts must run without an error, and ask nobody but view_node.
    """
    contexts, errors, asked = [], [], []

    def begin(address, **options):
        contexts.append(chromium.new_context(**{"viewport": WIDE} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("http", "ws")) and asked.append(r.url))
        page.goto(address)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert errors == []
    hosts = {re.match(r"\w+://([^/]*)/", url)[1] for url in asked}
    assert len(hosts) <= 1, f"the page asks {hosts}: it must work without a network"


def address(process, observer):
    """Return the address that view_node prints, once it does."""
    found = []

    def printed():
        found[:] = re.findall(r"open (http://\S+)", process.log.read_text())
        return found or process.poll() is not None

    observer.until(printed)
    assert found, process.log.read_text()
    return found[0]


def state(page, expected):
    """Wait until the page says that command_node is in this state."""
    playwright.expect(page.locator("body")).to_have_attribute("data-state", expected)


def text(page, selector, expected):
    """Wait until an element says this, a text or a pattern."""
    playwright.expect(page.locator(selector)).to_contain_text(expected)


def test_every_button_works_against_the_running_simulation(processes, observer, visit, tmp_path):
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Bool

    from world_model_ros.nodes.qos import LATCHED

    goals = observer.collect(Image, "goal/image", LATCHED)
    stops = observer.collect(Bool, "command/emergency_stop")
    executed = observer.collect(JointState, "command/executed", 1)  # none of the past
    sim = processes.sim("--view", "--view-port", "0")
    page = visit(address(sim, observer))
    phone = visit(page.url, viewport=NARROW, has_touch=True, is_mobile=True)

    def press(name):
        page.click(f"#controls button[data-button={name}]")

    # It shows what happens.
    state(page, "RUNNING")
    for name in ("camera", "goal", "imagination"):
        page.wait_for_selector(f"#{name}[data-shown]")
    for name in ("distance", "surprise", "planning"):
        text(page, f"#{name} output", re.compile(r"\d"))
    text(page, "#planner", "enabled")
    picture = os.environ.get("WORLD_MODEL_ROS_PICTURE")
    if picture:
        page.wait_for_timeout(55_000)  # until the plots are full
    page.screenshot(path=picture or tmp_path / "wide.png")

    # The buttons of the planner and the simulation.
    press("disable")
    state(page, "RELEASED")
    text(page, "#planner", "disabled")

    def goal_from_here():
        press("goal_from_camera")
        text(page, "#answer", "Goal from here: goal taken")
        return page.inner_text("#goal-note") == "taken from the camera"

    observer.until(goal_from_here)  # the simulation may still draw the goal after the one just reached
    observer.spin_while(lambda: True, 0.5)
    before = len(goals)
    press("new_goal")
    text(page, "#answer", "New goal: new goal at the next model step")
    observer.until(lambda: len(goals) > before)
    playwright.expect(page.locator("#goal-note")).to_be_empty()
    press("enable")
    text(page, "#planner", "enabled")
    state(page, "RUNNING")

    # Those of command_node. The other viewer sees the same.
    stops.clear()
    page.click("#stop")
    state(page, "FAULT")
    text(page, "#reason", "emergency stop")
    state(phone, "FAULT")
    page.wait_for_selector("#alarm", state="hidden")  # command_node has confirmed it
    observer.until(lambda: stops)
    executed.clear()
    observer.until(lambda: len(executed) > 20)
    assert not any(any(message.velocity) for message in executed[2:])
    press("enable")  # ends no stop
    text(page, "#answer", "Enable:")
    state(page, "FAULT")
    press("reset")
    state(page, "RUNNING")
    page.focus("#stop")
    page.keyboard.press("Enter")
    state(page, "FAULT")
    press("reset")
    state(page, "RUNNING")
    press("release")
    state(page, "RELEASED")
    press("reset")
    state(page, "RUNNING")
    phone.tap("#stop")
    state(page, "FAULT")

    # Where the connection is lost, the page says so, and what the button does then.
    assert phone.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    phone.screenshot(path=tmp_path / "narrow.png", full_page=True)
    sim.send_signal(signal.SIGINT)
    processes.ends_within(sim, 4.0)
    for each in (page, phone):
        state(each, "LOST")
        text(each, "#stop-hint", "not connected: the button does not act")
        assert each.is_disabled("button[data-button=enable]")
    page.click("#stop")
    text(page, "#alarm", "not confirmed")
    assert processes.alive() == []


def test_elsewhere_the_page_needs_the_token_and_a_stop_that_nobody_confirms_is_not_one(
    processes, observer, visit
):
    process = processes.node("view_node", config=False, port=0, host="0.0.0.0")
    url = re.sub("//[^:]*:", "//127.0.0.1:", address(process, observer))
    bare = url.partition("?token=")[0]
    page = visit(bare)
    assert "token is missing or wrong" in page.inner_text("body")
    page.goto(url)
    state(page, "UNKNOWN")
    text(page, "#reason", "command_node is not running")
    text(page, "#stop-hint", "no command_node: the button does not act")
    page.click("#stop")
    text(page, "#alarm", "The stop is not confirmed")
    assert page.evaluate("document.cookie") == ""  # no script reads it
    page.goto(bare)  # the browser has it now
    state(page, "UNKNOWN")


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_stop_is_large_and_always_in_view(processes, observer, visit, viewport):
    process = processes.node("view_node", config=False, port=0)
    page = visit(address(process, observer), viewport=viewport)
    for part in (0, 0.5, 1):
        page.evaluate("part => scrollTo(0, part * document.body.scrollHeight)", part)
        box = page.locator("#stop").bounding_box()
        assert box["width"] >= 250
        assert box["height"] >= 60
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= viewport["width"]
        assert box["y"] + box["height"] <= viewport["height"]
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).closest('#stop') !== null", middle)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
