"""Build the wheel and try it as a user would: in a clean environment, from another folder.

    python tools/wheel.py

A second installation of torch and all would cost 6.5 GB and 5 minutes. The clean environment instead links the
distributions that the wheel's own requirements name, directly or through each other, from the environment that runs
this script. It links nothing else, so a requirement that settings.ini forgot is missing here as it would be for a
user."""

from importlib.metadata import distribution, distributions
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART_LIMIT = 300  # seconds


def normal(name: str) -> str:
    return name.lower().replace('_', '-').replace('.', '-')


def needed(requirements: list[str]) -> set[str]:
    "Names of the installed distributions that these requirements need, with their extras, through each other."
    from packaging.requirements import Requirement

    installed = {normal(d.metadata['Name']) for d in distributions()}
    done, waiting = set(), [Requirement(r) for r in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in requirement.extras or {''}:
            key = normal(requirement.name), extra
            if key in done:
                continue
            done.add(key)
            if key[0] not in installed:
                raise SystemExit(f'{requirement} is required but not installed')
            for line in distribution(key[0]).requires or []:
                below = Requirement(line)
                if (
                    below.marker is None
                    or below.marker.evaluate({'extra': extra})
                    or below.marker.evaluate({'extra': ''})
                ):
                    waiting.append(below)
    return {name for name, _ in done}


def link(names: set[str], target: Path):
    "Link the files of distributions into the site-packages folder `target`."
    source = Path(sysconfig.get_path('purelib'))
    for name in names:
        for top in {
            file.parts[0] for file in distribution(name).files or [] if file.parts[0] not in ('..', '__pycache__')
        }:
            if not (target / top).exists():
                (target / top).symlink_to(source / top)


def run(*command, cwd, limit=300):
    "Run a command with nothing of this environment but the path; its output, or the end of the script."
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON') and k != 'VIRTUAL_ENV'}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit,
    )
    if done.returncode:
        raise SystemExit(f'{" ".join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-4000:]}')
    return done.stdout


def left_out(at, names) -> list[str]:
    "What does not belong into a build; mtmg/data does, and data beside it does not."
    outside = ('runs', 'data', '_docs', '_proc', 'build', 'dist', 'nbs', 'shared') if Path(at) == ROOT else ()
    return [n for n in names if n.startswith('.') or n in outside]


def main():
    start = time.time()
    with tempfile.TemporaryDirectory(prefix='mtmg-wheel-') as folder:
        folder, elsewhere = Path(folder), Path(folder) / 'elsewhere'
        elsewhere.mkdir()
        source = folder / 'source'  # build from a copy: setuptools leaves build/ and *.egg-info beside what it builds
        shutil.copytree(
            ROOT,
            source,
            ignore=left_out,
        )
        run(
            sys.executable, '-m', 'build', '--outdir', folder / 'dist', source, cwd=folder
        )  # the sdist, and the wheel from it
        (wheel,) = (folder / 'dist').glob('*.whl')
        print(f'built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB, in {time.time() - start:.0f} s', flush=True)

        venv.create(folder / 'clean', with_pip=False)
        python = folder / 'clean' / 'bin' / 'python'
        site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=elsewhere).strip())
        run(
            sys.executable,
            '-m',
            'pip',
            '--disable-pip-version-check',
            '--python',
            python,
            'install',
            '--no-deps',
            '--quiet',
            wheel,
            cwd=elsewhere,
        )
        requires = next(site.glob('mtmg-*.dist-info/METADATA')).read_text().splitlines()
        names = needed(
            [
                line.removeprefix('Requires-Dist: ')
                for line in requires
                if line.startswith('Requires-Dist: ') and 'extra ==' not in line
            ]
        )
        link(names, site)
        place = run(python, '-c', 'import mtmg; print(mtmg.__file__)', cwd=elsewhere).strip()
        assert Path(place).is_relative_to(folder), f'tried {place}, not the wheel'
        print(f'installed with {len(names)} distributions that it needs', flush=True)

        mtmg, start = folder / 'clean' / 'bin' / 'mtmg', time.time()
        run(mtmg, '--help', cwd=elsewhere)
        run(mtmg, 'info', cwd=elsewhere)
        # every stage, measure and figure, of a few scenes: the walkthrough runs the whole
        run(
            python,
            '-c',
            "from mtmg.quickstart import quickstart; quickstart(out='out', n=(400, 200, 200), epochs=1)",
            cwd=elsewhere,
            limit=QUICKSTART_LIMIT,
        )
        results = json.loads((elsewhere / 'out' / 'results.json').read_text())
        assert results and (elsewhere / 'out' / 'report.html').stat().st_size > 1000
        assert not list(elsewhere.glob('[!o]*')), f'quickstart left files beside --out: {list(elsewhere.iterdir())}'
        print(f'a short quickstart from another folder: {time.time() - start:.0f} s')
    print('\n1 passed, 0 failed')


if __name__ == '__main__':
    try:
        main()
    except (SystemExit, AssertionError, subprocess.TimeoutExpired) as problem:
        print(f'FAILED wheel\n{problem}\n\n0 passed, 1 failed')
        sys.exit(1)
