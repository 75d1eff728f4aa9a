"""The demos in a real browser: starts `mtmg demo`, plays with all four, looks at what they answer.

    python tools/browser.py [--run runs/quickstart] [--shots FOLDER]   # a folder for screenshots; none are kept without

Without --run it does what a newcomer does: `mtmg demo` in an empty folder, which makes a small run first. Needs a Chromium or
Chrome of the system; without one it says that it is skipped. Ends with a line 'N passed, N failed'."""
import argparse
from contextlib import contextmanager
import io
import os
from pathlib import Path
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

from playwright.sync_api import Page, sync_playwright

START_LIMIT = 600 # seconds until the server answers: it may have to make a small run first
PAGE_LIMIT = 300_000 # ms until the page is there: its kernel imports torch
ANSWER_LIMIT = 60_000 # ms for an answer to change; how fast it is on a quiet machine is tested in the notebook
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
EVIL = '<img src=evil.png onerror="document.title=1;alert(1)">' # runs where it is not escaped


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def served(run: str | None):
    "The app's address while the block runs."
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'mtmg.cli', 'demo', '--port', str(port), *(['--run', str(Path(run).resolve())] if run else [])]
        server = subprocess.Popen(command, cwd=folder, env=os.environ | {'MTMG_CACHE': folder}, stdin=subprocess.DEVNULL)
        try:
            end = time.time() + START_LIMIT
            while True:
                if server.poll() is not None: raise SystemExit(f'the server ended with status {server.returncode}\n\n0 passed, 1 failed')
                try:
                    with socket.create_connection(('127.0.0.1', port), 1): break
                except OSError:
                    if time.time() > end: raise SystemExit(f'no server within {START_LIMIT} s\n\n0 passed, 1 failed') from None
                    time.sleep(.5)
            yield f'http://localhost:{port}/'
        finally:
            server.send_signal(signal.SIGTERM) # Voila ends its kernels
            try: server.wait(30)
            except subprocess.TimeoutExpired: server.kill()


def tif(bands: dict) -> bytes:
    "A tif of named bands, without georeference."
    import numpy as np
    import rasterio
    with rasterio.MemoryFile() as memory:
        with memory.open(driver='GTiff', width=64, height=64, count=len(bands), dtype='uint16') as file:
            file.write(np.stack([np.full((64, 64), v, np.uint16) for v in bands.values()]))
            file.descriptions = list(bands)
        return memory.read()


class Player:
    "A page with the demos, and the little that a visitor does."
    def __init__(self, page: Page, shots: Path | None):
        self.page, self.shots, self.problems, self.counts = page, shots, [], [0, 0]
        page.on('console', lambda m: m.type == 'error' and self.problems.append(f'console: {m.text} ({m.location.get("url", "")})'))
        page.on('pageerror', lambda e: self.problems.append(f'page: {e}'))
        page.on('response', lambda r: r.status >= 400 and self.problems.append(f'{r.status}: {r.url}'))

    @contextmanager
    def step(self, name: str):
        "One thing to do and to see; a failure is counted, and the next step tried."
        start = time.perf_counter()
        try: yield
        except Exception:
            self.counts[1] += 1
            print(f'  FAILED {name}', flush=True)
            traceback.print_exc()
            self.shot(f'failed-{name}')
        else:
            self.counts[0] += 1
            print(f'  ok {time.perf_counter() - start:5.1f} s  {name}', flush=True)
    @property
    def tab(self): return self.page.locator('.mtmg .mtmg:visible')
    def text(self, part: str) -> str: return self.tab.locator(part).first.inner_text()
    def html(self, part: str) -> str: return self.tab.locator(part).first.inner_html()
    def open_tab(self, title: str):
        self.page.get_by_role('tab', name=title, exact=True).click()
        self.page.locator('.mtmg .mtmg:visible', has=self.page.locator('h3', has_text=title)).wait_for(timeout=ANSWER_LIMIT)
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


def numbers(p: Player, row: str) -> float:
    "The number of one row of the table."
    return float(re.search(r'[−-]?[\d.]+', p.tab.locator('.mtmg-numbers tr', has_text=row).locator('td').nth(1).inner_text())[0].replace('−', '-'))


def until(p: Player, true, what: str):
    "Wait for something to become true."
    end = time.time() + ANSWER_LIMIT / 1000
    while not true():
        assert time.time() < end, what
        p.page.wait_for_timeout(50)


def zero_shot(p: Player):
    "choose a scene, edit classes and prompts, change the composite, upload"
    with p.step('three models side by side'):
        p.open_tab('Zero-shot')
        for model in ('CLIP', 'patched CLIP', 'aligned student'): p.tab.locator('.mtmg-answers b').get_by_text(model, exact=True).wait_for(timeout=ANSWER_LIMIT)
        p.shot('1-zero-shot')
    with p.step('choose a scene by its thumbnail'):
        seconds = p.changed('.mtmg-answers', lambda: p.tab.locator('button.mtmg-thumb').nth(7).click())
        print(f'     answers after {1000 * seconds:.0f} ms')
    with p.step('class names, with HTML among them'):
        seconds = p.changed('.mtmg-answers', lambda: p.fill('classes', f'open water\nwoodland\n{EVIL}'))
        print(f'     answers after {1000 * seconds:.0f} ms')
        p.expect('.mtmg-answers', 'woodland')
        p.expect('.mtmg-answers', re.escape(EVIL))
        assert p.tab.locator('.mtmg-answers img').count() == 0, 'typed HTML must stay text'
    with p.step('other prompts, other answers'): p.changed('.mtmg-answers', lambda: p.fill('prompts', 'an aerial view of {}'))
    with p.step('a prompt without a place for the class'):
        p.fill('prompts', 'an aerial view')
        p.expect('.mtmg-error', "exactly one '{}'")
        p.shot('2-bad-prompt')
        p.fill('prompts', 'an aerial view of {}')
        p.tab.locator('.mtmg-error').wait_for(state='detached', timeout=ANSWER_LIMIT)
    with p.step('10,000 class names'):
        p.fill('classes', '\n'.join(f'class {i}' for i in range(10_000)))
        p.expect('.mtmg-error', '10,000 prompts')
    with p.step('other alphabets, braces and dollars'):
        p.fill('classes', 'forêt\n森林\nriver $x^2$ {0}')
        p.expect('.mtmg-answers', '森林')
    with p.step('another composite'): p.changed('.mtmg-answers', lambda: p.choose('composite', 'false colour (NIR)'))
    upload = p.tab.locator('input[type=file]')
    with p.step('a broken tif is refused'):
        upload.set_input_files({'name': 'broken.tif', 'mimeType': 'image/tiff', 'buffer': b'II*\0' + b'\1' * 99})
        p.expect('.mtmg-error', r'broken\.tif')
    with p.step('a tif of 13 bands: all three answer'):
        names = 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12'.split()
        upload.set_input_files({'name': 'bands.tif', 'mimeType': 'image/tiff', 'buffer': tif({b: 300 + 200 * i for i, b in enumerate(names)})})
        p.expect('.mtmg-line', r'bands\.tif: 13 bands, 64 x 64')
        until(p, lambda: p.tab.locator('.mtmg-none').count() == 0, 'the student has no answer')
    with p.step('a photo: the student says what it lacks'):
        from PIL import Image
        Image.effect_noise((80, 60), 50).convert('RGB').save(photo := io.BytesIO(), 'PNG')
        upload.set_input_files({'name': 'photo.png', 'mimeType': 'image/png', 'buffer': photo.getvalue()})
        p.expect('.mtmg-line', r'photo\.png: 3 bands, 60 x 80')
        p.expect('.mtmg-none', 'no answer')
        p.shot('3-upload')
    with p.step('back to a scene'):
        p.tab.locator('button.mtmg-thumb').nth(2).click()
        p.expect('.mtmg-line', r'scene \d+: ')


def alpha(p: Player):
    "move alpha, jump to the chosen one, choose a scene"
    with p.step('the curve and its numbers'):
        p.open_tab('Alpha')
        p.expect('.mtmg-numbers', 'miniworld')
        p.shot('4-alpha')
    chosen, table, line = p.text('.mtmg-answers'), p.text('.mtmg-numbers'), p.html('.mtmg-top')
    with p.step('slide alpha'):
        seconds = p.changed('.mtmg-answers', lambda: p.slide(6, 'α'))
        print(f'     answers after {1000 * seconds:.0f} ms')
        until(p, lambda: p.text('.mtmg-answers') != chosen and p.html('.mtmg-top') != line, 'answers and line did not follow')
        p.shot('5-alpha-moved')
    with p.step('jump to the chosen alpha'):
        p.tab.get_by_role('button', name=re.compile('chosen')).click()
        until(p, lambda: (p.text('.mtmg-answers'), p.text('.mtmg-numbers'), p.html('.mtmg-top')) == (chosen, table, line), 'not as it was')
    with p.step('another scene'): p.changed('.mtmg-answers', lambda: p.tab.locator('button.mtmg-thumb').nth(4).click())
    with p.step('deal other scenes'):
        shown = p.tab.locator('button.mtmg-thumb').first.get_attribute('title')
        p.tab.get_by_role('button', name='other scenes').click()
        until(p, lambda: p.tab.locator('button.mtmg-thumb').first.get_attribute('title') != shown, 'the same scenes')


def gap(p: Player):
    "shift, colour, click on the map, walk to a neighbour"
    of_gap = lambda: numbers(p, 'centroid gap')
    scene = lambda: p.tab.locator('.mtmg-side b').first.inner_text()
    with p.step('the map and its numbers'):
        p.open_tab('Modality gap')
        p.expect('.mtmg-numbers', 'centroid gap')
        assert p.tab.locator('.mtmg-over svg circle').count() > 100, 'points on the map'
        p.shot('6-gap')
    with p.step('CLIP to captions'):
        p.choose('from', 'RGB, CLIP')
        p.choose('to', 'captions, text tower')
        p.expect('.mtmg-numbers', 'CLIP → captions')
    with p.step('shift along the gap'):
        wide, retrieved = of_gap(), numbers(p, 'CLIP → captions')
        p.slide(10, 'shift')
        until(p, lambda: of_gap() < .3 * wide, f'the gap was {wide} and did not close')
        print(f'     gap {wide} -> {of_gap()}, R@1 {retrieved} -> {numbers(p, "CLIP → captions")} %')
        p.shot('7-gap-shifted')
    with p.step('click on a point'):
        p.tab.locator('.mtmg-over button[title^="scene 7:"]').first.dispatch_event('click')
        until(p, lambda: scene() == 'scene 7', 'the point was not chosen')
    with p.step('walk to a neighbour'):
        p.tab.locator('button.mtmg-thumb:visible').nth(2).click()
        until(p, lambda: scene() != 'scene 7', 'the neighbour was not chosen')
    with p.step('colour by class'):
        p.choose('colour', 'class')
        p.expect('.mtmg-legend', 'forest')
        p.shot('8-gap-classes')


def retrieval(p: Player):
    "query by text, by a scene; change the gallery"
    captions = lambda: p.tab.locator('button.mtmg-thumb:visible').all_inner_texts()
    with p.step('query by text'):
        p.open_tab('Retrieval')
        p.expect('b', 'best matches')
        before = captions()
        p.fill('text', 'a satellite photo of a forest')
        p.expect('b', 'a satellite photo of a forest')
        until(p, lambda: captions() != before, 'other answers for another text')
        p.shot('9-retrieval-text')
    with p.step('query by a scene'):
        p.tab.locator('button.mtmg-thumb:visible').nth(3).click()
        p.expect('b', r'the same scene is at place \d+ of')
        p.shot('10-retrieval-scene')
    with p.step('another gallery'):
        p.choose('search in', 'RGB, CLIP')
        p.expect('b', 'asks RGB, CLIP')
    with p.step('a text with HTML'):
        p.fill('text', f'a river {EVIL}')
        p.expect('b', re.escape(EVIL))
    with p.step('a text too long'):
        p.fill('text', 'very ' * 100)
        p.expect('.mtmg-error', 'at most 200')


def main() -> int:
    "Play; the exit status."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--run', help='folder of mtmg quickstart; by default a small run is made')
    parser.add_argument('--shots', type=Path, help='folder for screenshots')
    args = parser.parse_args()
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        print(f'skipped: none of {", ".join(BROWSERS)} is installed (on Debian: apt-get install chromium)\n\n0 passed, 0 failed')
        return 0
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    with served(args.run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
        page = browser.new_page(viewport={'width': 1200, 'height': 1060})
        player = Player(page, args.shots)
        page.on('dialog', lambda d: (player.problems.append(f'a script ran: {d.message}'), d.dismiss()))
        with player.step('open the app'):
            page.goto(address, timeout=PAGE_LIMIT, wait_until='commit')
            page.locator('.mtmg-answers').first.wait_for(timeout=PAGE_LIMIT)
        title = page.title()
        for act in (zero_shot, alpha, gap, retrieval):
            print(f'{act.__name__}: {act.__doc__}', flush=True)
            try: act(player)
            except Exception: # between two steps
                player.counts[1] += 1
                traceback.print_exc()
        with player.step('nothing typed was run, and the console is clean'):
            assert page.title() == title, 'a script ran'
            assert not player.problems, '\n'.join(player.problems)
        browser.close()
    passed, failed = player.counts
    print(f'\n{passed} passed, {failed} failed', flush=True)
    return int(failed > 0)


if __name__ == '__main__': sys.exit(main())
