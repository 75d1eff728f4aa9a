"""The demos in a real browser: starts `mtmg demo`, plays with all four, looks at what they answer.

    python tools/browser.py [--run runs/quickstart] [--shots FOLDER]   # a folder for screenshots; none are kept without

Needs a Chromium or Chrome of the system. Ends with a line 'N passed, N failed'."""
import argparse
from contextlib import contextmanager
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT = 600 # seconds until the server answers: it may have to make a small run first
PAGE_LIMIT = 180_000 # ms until the page is there: its kernel imports torch
ANSWER_LIMIT = 30_000 # ms for an answer to change; how fast it is on a quiet machine is tested in the notebook
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')


def browser_path() -> str:
    "The browser of the system."
    found = next((p for p in map(shutil.which, BROWSERS) if p), None)
    if found is None: raise SystemExit(f'none of {", ".join(BROWSERS)} is installed; on Debian: apt-get install chromium')
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def served(run: str | None):
    "The app's address while the block runs."
    port = free_port()
    code = f'from mtmg.widgets import demo; demo({run!r}, port={port})' if run else 'from mtmg.cli import main; raise SystemExit(main())'
    server = subprocess.Popen([sys.executable, '-c', code, 'demo', '--port', str(port)], cwd=ROOT)
    try:
        end = time.time() + START_LIMIT
        while True:
            if server.poll() is not None: raise SystemExit(f'the server ended with status {server.returncode}')
            try:
                with socket.create_connection(('127.0.0.1', port), 1): break
            except OSError:
                if time.time() > end: raise SystemExit(f'no server within {START_LIMIT} s') from None
                time.sleep(.5)
        yield f'http://localhost:{port}/'
    finally:
        server.send_signal(signal.SIGINT) # as Ctrl-C does; Voila ends its kernels
        try: server.wait(30)
        except subprocess.TimeoutExpired: server.kill()


class Player:
    "A page with the demos, and the little that a visitor does."
    def __init__(self, page: Page, shots: Path | None):
        self.page, self.shots, self.problems = page, shots, []
        page.on('console', lambda m: m.type == 'error' and self.problems.append(f'console: {m.text} ({m.location.get("url", "")})'))
        page.on('pageerror', lambda e: self.problems.append(f'page: {e}'))
        page.on('response', lambda r: r.status >= 400 and self.problems.append(f'{r.status}: {r.url}'))

    @property
    def tab(self): return self.page.locator('.mtmg:visible')
    def text(self, part: str) -> str: return self.tab.locator(part).first.inner_text()
    def html(self, part: str) -> str: return self.tab.locator(part).first.inner_html()
    def open_tab(self, title: str):
        self.page.get_by_role('tab', name=title, exact=True).click()
        self.tab.locator('h3', has_text=title).wait_for(timeout=ANSWER_LIMIT)
    def shot(self, name: str):
        if self.shots:
            self.page.wait_for_timeout(300)
            self.page.screenshot(path=self.shots/f'{name}.png', full_page=True)
    def changed(self, part: str, act) -> float:
        "Do something; the seconds until `part` of the demo shows something else."
        before, start = self.html(part), time.perf_counter()
        act()
        end = start + ANSWER_LIMIT / 1000
        while self.html(part) == before:
            if time.perf_counter() > end: raise AssertionError(f'{part} did not change')
            self.page.wait_for_timeout(10)
        return time.perf_counter() - start
    def fill(self, label: str, text: str):
        "Write into a field, by its label."
        box = self.tab.locator('.jupyter-widgets', has=self.page.locator(f'label:text-is("{label}")')).locator('textarea, input').first
        box.fill(text)
        box.blur()
    def choose(self, label: str, option: str):
        self.tab.locator('.jupyter-widgets', has=self.page.locator(f'label:text-is("{label}")')).locator('select').first.select_option(label=option)
    def slide(self, steps: int, label: str):
        handle = self.tab.locator('.jupyter-widgets', has=self.page.locator(f'label:text-is("{label}")')).locator('.noUi-handle').first
        handle.focus()
        for _ in range(abs(steps)): handle.press('ArrowRight' if steps > 0 else 'ArrowLeft')
    def expect(self, part: str, pattern: str):
        self.tab.locator(part, has_text=re.compile(pattern)).first.wait_for(timeout=ANSWER_LIMIT)


def zero_shot(p: Player):
    "choose a scene, edit classes and prompts, change the composite, upload"
    p.open_tab('Zero-shot')
    p.expect('.mtmg-model', r'CLIP')
    assert p.tab.locator('.mtmg-model').count() == 3, 'three models side by side'
    p.shot('1-zero-shot')
    print(f'  scene: {p.changed(".mtmg-answers", lambda: p.tab.locator("button.mtmg-thumb").nth(7).click()):.2f} s')
    seconds = p.changed('.mtmg-answers', lambda: p.fill('classes', 'open water\nwoodland\nbuilt up town <img src=x onerror=alert(1)>'))
    print(f'  class names: {seconds:.2f} s')
    p.expect('.mtmg-answers', 'woodland')
    assert p.tab.locator('.mtmg-answers img').count() == 0, 'typed HTML must stay text'
    p.changed('.mtmg-answers', lambda: p.fill('prompts', 'an aerial view of {}'))
    p.fill('prompts', 'an aerial view')
    p.expect('.mtmg-error', "exactly one '{}'")
    p.shot('2-bad-template')
    p.fill('prompts', 'an aerial view of {}')
    p.tab.locator('.mtmg-error').wait_for(state='detached', timeout=ANSWER_LIMIT)
    p.fill('classes', '\n'.join(f'class {i}' for i in range(10_000)))
    p.expect('.mtmg-error', '10,000 prompts')
    p.fill('classes', 'forêt\n森林\nriver $x^2$ {0}')
    p.expect('.mtmg-answers', '森林')
    p.changed('.mtmg-answers', lambda: p.choose('composite', 'false colour (NIR)'))
    upload = p.tab.locator('input[type=file]')
    upload.set_input_files({'name': 'broken.tif', 'mimeType': 'image/tiff', 'buffer': b'II*\0' + b'\1' * 99})
    p.expect('.mtmg-error', 'broken.tif')
    upload.set_input_files({'name': 'photo.png', 'mimeType': 'image/png', 'buffer': p.page.locator('h2').first.screenshot()})
    p.expect('.mtmg-line', r'photo\.png, 3 bands')
    p.expect('.mtmg-none', 'no answer')
    p.shot('3-upload')


def alpha(p: Player):
    "move alpha, jump to the chosen one, choose a scene"
    p.open_tab('Alpha')
    p.expect('.mtmg-numbers', 'miniworld')
    p.shot('4-alpha')
    chosen = p.text('.mtmg-answers')
    print(f'  alpha: {p.changed(".mtmg-answers", lambda: p.slide(4, "α")):.2f} s')
    p.page.wait_for_timeout(500)
    assert p.text('.mtmg-answers') != chosen
    p.shot('5-alpha-moved')
    p.tab.get_by_role('button', name=re.compile('chosen')).click()
    p.page.wait_for_function('t => [...document.querySelectorAll(".mtmg")].some(e => e.offsetParent && e.querySelector(".mtmg-answers") && e.querySelector(".mtmg-answers").innerText === t)', arg=chosen, timeout=ANSWER_LIMIT)
    p.changed('.mtmg-answers', lambda: p.tab.locator('button.mtmg-thumb').nth(4).click())


def gap(p: Player):
    "shift, colour, click on the map, walk to a neighbour"
    p.open_tab('Modality gap')
    p.expect('.mtmg-numbers', 'centroid gap')
    p.shot('6-gap')
    gap_of = lambda: float(p.tab.locator('.mtmg-numbers tr', has_text='centroid gap').locator('td').nth(1).inner_text())
    before = gap_of()
    p.choose('from', 'RGB, CLIP'), p.choose('to', 'captions, text tower')
    p.expect('.mtmg-line', 'captions, text tower')
    wide = gap_of()
    assert wide > before, f'CLIP to text is wider apart ({wide}) than RGB and 13 bands after alignment ({before})'
    print(f'  shift: {p.changed(".mtmg-numbers", lambda: p.slide(10, "shift")):.2f} s')
    end = time.time() + ANSWER_LIMIT / 1000
    while gap_of() > .3 * wide:
        assert time.time() < end, f'the gap is {gap_of()}, was {wide}'
        p.page.wait_for_timeout(50)
    p.shot('7-gap-shifted')
    scene = lambda: p.tab.locator('b', has_text=re.compile(r'^scene \d+')).first.inner_text()
    first = scene()
    cells = p.tab.locator('.mtmg-cells')
    for x, y in ((150, 250), (330, 180), (260, 300)):
        cells.click(position={'x': x, 'y': y})
        p.page.wait_for_timeout(400)
        if scene() != first: break
    else: raise AssertionError('clicks on the map chose no other scene')
    second = scene()
    p.tab.locator('button.mtmg-thumb:visible').nth(2).click()
    end = time.time() + ANSWER_LIMIT / 1000
    while scene() == second:
        assert time.time() < end, 'the neighbour was not chosen'
        p.page.wait_for_timeout(50)
    p.tab.get_by_role('button', name='class', exact=True).click()
    p.page.wait_for_timeout(800)
    p.shot('8-gap-classes')


def retrieval(p: Player):
    "query by text, by a scene; change the gallery"
    p.open_tab('Retrieval')
    p.expect('b', 'best matches')
    captions = lambda: p.tab.locator('button.mtmg-thumb:visible').all_inner_texts()
    before = captions()
    p.fill('text', 'a satellite photo of a forest')
    p.expect('b', 'a satellite photo of a forest')
    p.page.wait_for_timeout(500)
    assert captions() != before, 'other answers for another text'
    p.shot('9-retrieval-text')
    p.tab.locator('button.mtmg-thumb:visible').nth(3).click()
    p.expect('b', r'the same scene is at place \d+ of')
    p.shot('10-retrieval-scene')
    p.fill('text', '<script>alert(1)</script> ' + 'very ' * 100)
    p.expect('.mtmg-error', 'at most 200')


def main() -> int:
    "Play; the exit status."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--run', help='folder of mtmg quickstart; by default what mtmg demo takes')
    parser.add_argument('--shots', type=Path, help='folder for screenshots')
    args = parser.parse_args()
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    failed, acts = 0, (zero_shot, alpha, gap, retrieval)
    with served(args.run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), headless=True, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
        page = browser.new_page(viewport={'width': 1200, 'height': 900})
        player = Player(page, args.shots)
        dialogs = []
        page.on('dialog', lambda d: (dialogs.append(d.message), d.dismiss()))
        start = time.time()
        page.goto(address, timeout=PAGE_LIMIT, wait_until='domcontentloaded')
        page.locator('.mtmg h3').first.wait_for(timeout=PAGE_LIMIT)
        print(f'the page is there after {time.time() - start:.1f} s')
        for act in acts:
            print(f'{act.__name__}: {act.__doc__}', flush=True)
            try: act(player)
            except Exception:
                failed += 1
                traceback.print_exc()
                player.shot(f'failed-{act.__name__}')
        problems = player.problems + [f'a script ran: {d}' for d in dialogs]
        for problem in problems: print(problem)
        failed += bool(problems)
        browser.close()
    print(f'\n{len(acts) + 1 - failed} passed, {failed} failed', flush=True)
    return int(failed > 0)


if __name__ == '__main__': sys.exit(main())
