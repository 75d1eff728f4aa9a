"""The notebooks: run the modules' tests, execute the walkthroughs, compare notebooks and package.

    python tools/notebooks.py test [NAME ...] [--agree]         # nbdev_test over module notebooks, or the named ones
    python tools/notebooks.py agree                             # is the package a clean export of clean notebooks?
    python tools/notebooks.py walkthroughs [NAME ...] [--save]  # execute nbs/walkthroughs/*.ipynb

A NAME is a part of a notebook's path below nbs: 'bands' is every notebook of that package, 'bands/images' is one.
Each command ends with a line 'N passed, N failed'."""

import argparse
from concurrent.futures import ThreadPoolExecutor
import json
import multiprocessing
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parent.parent
NBS, BIN = ROOT / 'nbs', Path(sys.executable).parent
WORKERS = 2
FORKS = multiprocessing.get_context('forkserver')
STORIES = 'walkthroughs', 'experiments'  # folders of notebooks that are run, and export nothing
NOTEBOOK_LIMIT = 300  # seconds for one module notebook: a hung one must not hang the build
WALKTHROUGHS_LIMIT = 600  # seconds that all walkthroughs together should take on two quiet cores
CELL_LIMIT = 1800  # seconds for one cell: a hung one must not hang the build, a slow machine is no fault
REAL_IMAGES_LIMIT = 300  # more, where the walkthrough on real images runs; a bare machine leaves it out
BUSY = 1.5  # how much longer they may take beside other work before that fails
LONGEST = ('real_satellites', 'quickstart', 'alignment', 'gap')  # they start first
LINE = 120  # characters, as in ruff.toml
WALKTHROUGH_BYTES, MODULE_BYTES = 1_500_000, 300_000  # with their outputs
# one thread a worker, unless a caller asks for more: two workers with two threads each fight for two cores and lose by
# a factor of two
# freed memory stays with the process, as in the command `mtmg`: else glibc hands each large tensor back, and the kernel
# clears it anew
ENVIRONMENT = os.environ | {
    'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', '1'),
    'NUMBA_NUM_THREADS': '1',
    'MALLOC_MMAP_MAX_': '0',
    'MALLOC_TRIM_THRESHOLD_': str(2**31 - 1),
    'MALLOC_TOP_PAD_': str(2**28),
    'MPLBACKEND': 'agg',
    'PYTHONWARNINGS': 'ignore::DeprecationWarning',
    'PATH': f'{BIN}{os.pathsep}{os.environ["PATH"]}',
}


def notebooks(folder: Path, names: list[str]) -> list[Path]:
    "The notebooks below a folder, or those of them whose paths hold one of `names`."
    every = (p for p in folder.rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(folder).parts))
    found = sorted(
        p for p in every if not names or any(n in p.relative_to(folder).with_suffix('').as_posix() for n in names)
    )
    if not found:
        raise SystemExit(f'no notebook named {" or ".join(names) or "*"} in {folder.relative_to(ROOT)}')
    return found


def module_notebooks(names: list[str] = ()) -> list[Path]:
    "The notebooks that are tested: all but the walkthroughs and the experiments."
    found = [p for p in notebooks(NBS, list(names)) if p.relative_to(NBS).parts[0] not in STORIES]
    if not found:
        raise SystemExit(f'no module notebook named {" or ".join(names)}')
    return found


def reading_order() -> list[tuple[str, list[str]]]:
    "What nbs/order.txt says: titles, each with its notebooks (paths below nbs, without a suffix) as they are read."
    groups = []
    for line in (NBS / 'order.txt').read_text(encoding='utf-8').splitlines():
        if line.startswith('# '):
            groups.append((line[2:], []))
        elif line.strip():
            groups[-1][1].append(line.strip())
    return groups


def code_cells(path: Path) -> list[str]:
    "The sources of a notebook's code cells."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def made_by(path: Path) -> str | None:
    "The module that a notebook exports, 'bands.sensors' for one; None where it exports none."
    return next((m[1] for cell in code_cells(path) if (m := re.match(r'#\|\s*default_exp\s+(\S+)', cell))), None)


def summary(problems: dict[str, str]) -> int:
    "Print what failed and the closing line; the exit status."
    for name, problem in problems.items():
        if problem:
            print(f'\nFAILED {name}\n{problem}')
    failed = sum(map(bool, problems.values()))
    print(f'\n{len(problems) - failed} passed, {failed} failed', flush=True)
    return int(failed > 0)


# ---- module notebooks -----------------------------------------------------------------------------
# One process a notebook: nbdev_test by itself hands notebooks to workers that live on, so that one notebook could pass
# by what another has imported or set. The processes are forked from one that has imported what others wrote and nothing
# of ours, which saves each of them some seconds of a core.

PRELOADED = [
    'nbdev.test',
    'torch',
    'lightning.pytorch',
    'open_clip',
    'torchmetrics',
    'sklearn.linear_model',
    'matplotlib.pyplot',
]


def run_alone(path: Path, log: str, start_method: str):
    "In a process of its own: run a notebook with nbdev_test; what it says goes to `log`."
    multiprocessing.set_start_method(start_method, force=True)  # for the notebook, as in any other process
    os.setsid()  # with what it starts, to be ended together
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    from nbdev.test import nbdev_test

    nbdev_test(path=str(path), n_workers=0)


def test_one(path: Path) -> str:
    "Run one notebook with nbdev_test; what went wrong, or ''."
    start = time.time()
    with tempfile.NamedTemporaryFile('r', errors='replace') as log:
        process = FORKS.Process(target=run_alone, args=(path, log.name, multiprocessing.get_start_method()))
        process.start()
        process.join(NOTEBOOK_LIMIT)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            problem = f'did not end within {NOTEBOOK_LIMIT} s'
        else:
            said = log.read()
            # nbdev_test says the latter, and succeeds, where it found nothing to run
            problem = (
                said or f'ended with {process.exitcode}' if process.exitcode or 'No files were eligible' in said else ''
            )
    print(f'{"FAILED" if problem else "ok":>6} {time.time() - start:6.1f} s  {path.relative_to(ROOT)}', flush=True)
    return problem


def test(names: list[str]) -> dict[str, str]:
    "Name -> problem for the module notebooks."
    paths = module_notebooks(names)
    os.environ.update(ENVIRONMENT)
    FORKS.set_forkserver_preload(PRELOADED)
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            problems = dict(zip((p.relative_to(NBS).as_posix() for p in paths), pool.map(test_one, paths)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                os.killpg(process.pid, signal.SIGKILL)  # in sessions of their own, they do not hear of it
            raise SystemExit('interrupted') from None
    exporting = [p for p in module_notebooks() if made_by(p)]
    print(f'{len(set(exporting) & set(paths))} of {len(exporting)} exporting notebooks were tested')
    return problems


# ---- notebooks and package ------------------------------------------------------------------------


def unclean(path: Path) -> str:
    "What `nbdev_clean` would change in a notebook, or ''."
    from execnb.nbio import nb2str, read_nb
    from nbdev.clean import _nbdev_clean

    nb = read_nb(path)
    _nbdev_clean(nb)
    if nb2str(nb) != path.read_text(encoding='utf-8'):
        return 'run nbdev_clean on it'
    limit = WALKTHROUGH_BYTES if path.relative_to(NBS).parts[0] in STORIES else MODULE_BYTES
    if path.stat().st_size > limit:
        return f'{path.stat().st_size:,} bytes, {limit:,} allowed: smaller or fewer outputs'
    return ''


def long_prose(path: Path) -> str:
    "The lines of a notebook's prose that are too long, but for tables and addresses, which cannot be broken; or ''."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    lines = [line for c in cells if c['cell_type'] == 'markdown' for line in ''.join(c['source']).splitlines()]
    breakable = [x for x in lines if x[:1] != '|' and '$$' not in x and '\\\\' not in x and not re.search(r'\S{80}', x)]
    long = [line for line in breakable if len(line) > LINE]
    return f'{len(long)} lines of prose beyond column {LINE}, the first: {long[0][:60]}…' if long else ''


def order_problems() -> list[str]:
    "Where nbs/order.txt is no order in which imports only go down, or leaves an exporting notebook out."
    order = [name for _, names in reading_order() for name in names]
    paths = {p.relative_to(NBS).with_suffix('').as_posix(): p for p in notebooks(NBS, [])}
    found = [f'order.txt: no notebook {name}' for name in order if name not in paths]
    found += [f'order.txt: {name} stands twice' for name in sorted(set(order)) if order.count(name) > 1]
    made = {name: module for name, path in paths.items() if (module := made_by(path))}
    found += [f'{name}: missing in order.txt' for name in made if name not in order]
    place = {module: order.index(name) for name, module in made.items() if name in order}
    for name, module in made.items():
        # a notebook stands where its module does: from either a reader finds the other
        expected = (
            f'{module.removesuffix("__init__")}front'.replace('.', '/')
            if module.endswith('__init__')
            else module.replace('.', '/')
        )
        if name != expected:
            found.append(f'{name}: exports mtmg.{module}, so it belongs at nbs/{expected}.ipynb')
        if module.endswith('__init__') or module not in place:
            continue
        code = '\n'.join(c for c in code_cells(paths[name]) if re.match(r'#\|\s*exporti?\b', c))
        for taken, names in re.findall(r'^\s*from mtmg\.([\w.]+) import (\([^)]*\)|.*)', code, re.M):
            if place.get(taken, -1) > place[module]:
                found.append(f'{name}: takes from {taken}, which comes later')
            private = re.findall(r'\b_[A-Za-z]\w*', names.split('#')[0])
            if private:
                found.append(f'{name}: takes the private names {", ".join(private)} of {taken}')
    return found


def exported(folder: Path) -> dict[str, str]:
    "The package as its notebooks make it, exported anew in `folder`: file -> text."
    for name in ('settings.ini', 'pyproject.toml'):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        NBS, folder / 'nbs', ignore=lambda at, names: [n for n in names if n in ('.ipynb_checkpoints', 'runs')]
    )
    (folder / 'mtmg').mkdir()
    run = subprocess.run([BIN / 'nbdev_export'], cwd=folder, env=ENVIRONMENT, text=True, capture_output=True)
    if run.returncode:
        raise SystemExit(f'nbdev_export failed:\n{run.stdout}{run.stderr}')
    files = [folder / 'pyproject.toml', *folder.joinpath('mtmg').rglob('*.py')]
    return {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8') for p in files}


def agree() -> dict[str, str]:
    "Check -> problems: package against export, notebooks against their clean form, README against its notebook."
    with tempfile.TemporaryDirectory() as folder:
        fresh = exported(Path(folder))
    kept = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'mtmg').rglob('*.py')} | {'pyproject.toml'}
    lost, stale = sorted(fresh.keys() - kept), sorted(kept - fresh.keys())
    differ = [name for name in sorted(kept & fresh.keys()) if (ROOT / name).read_text(encoding='utf-8') != fresh[name]]
    package = (
        [f'{n}: missing, run make export' for n in lost]
        + [f'{n}: no notebook exports it' for n in stale]
        + [f'{n}: differs, run make export' for n in differ]
    )
    every = sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    clean = [f'{p.relative_to(ROOT)}: {problem}' for p in every if (problem := unclean(p))]
    prose = [f'{p.relative_to(ROOT)}: {problem}' for p in every if (problem := long_prose(p))]
    problems = {
        'the package is what the notebooks export': package,
        'lines of prose end before column 120': prose,
        'notebooks are clean': clean,
        'imports go down, by order.txt': order_problems(),
    }
    if (NBS / 'index.ipynb').exists():
        from docs import render_readme

        same = (ROOT / 'README.md').exists() and (ROOT / 'README.md').read_text(encoding='utf-8') == render_readme()[0]
        problems['README.md is nbs/index.ipynb'] = [] if same else ['README.md: run make readme']
    return {name: '\n'.join(found) for name, found in problems.items()}


# ---- walkthroughs ---------------------------------------------------------------------------------


def execute(path: Path, timeout: int = CELL_LIMIT):
    "A notebook with fresh outputs; raises nbclient's CellExecutionError."
    from nbclient import NotebookClient
    import nbformat

    nb = nbformat.read(path, as_version=4)
    os.environ.update(ENVIRONMENT | {'MPLBACKEND': 'module://matplotlib_inline.backend_inline'})  # figures are outputs
    skipped = [
        cell for cell in nb.cells if cell.cell_type == 'code' and cell.source.lstrip().startswith('#| eval: false')
    ]
    for cell in skipped:
        cell.metadata['tags'] = ['skip-execution']
    NotebookClient(nb, timeout=timeout, kernel_name='python3', resources={'metadata': {'path': path.parent}}).execute()
    return nb


def walk(path: Path, save: bool) -> str:
    "Execute one walkthrough; what went wrong, or ''."
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    import nbformat

    start, size = time.time(), 0
    try:
        nb = execute(path)
        size = len(nbformat.writes(nb).encode())
        problem = '' if size <= WALKTHROUGH_BYTES else f'{size:,} bytes with its outputs, {WALKTHROUGH_BYTES:,} allowed'
        if save and not problem:
            for cell in nb.cells:  # progress bars, and warnings with the paths of this machine
                if cell.cell_type == 'code':
                    cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
            nbformat.write(nb, path)
            subprocess.run([BIN / 'nbdev_clean', '--fname', path], cwd=ROOT, check=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        problem = str(error)
    print(
        f'{"FAILED" if problem else "ok":>6} {time.time() - start:6.1f} s {size / 1e6:5.2f} MB  '
        f'{path.relative_to(ROOT)}',
        flush=True,
    )
    return problem


def needs_real_images(path: Path) -> bool:
    "Does a walkthrough ask for real images, which are not here? It would fetch gigabytes."
    folder = Path(os.environ.get('MTMG_REALDATA') or ROOT.parent / 'shared' / 'realdata')
    return not folder.is_dir() and 'realdata(' in path.read_text(encoding='utf-8')


def walkthroughs(names: list[str], save: bool) -> dict[str, str]:
    "Name -> problem: execute the walkthroughs, two at a time; all of them but those whose images are not here."
    start = time.time()
    paths = sorted(
        notebooks(NBS / 'walkthroughs', names), key=lambda p: (*LONGEST, p.stem).index(p.stem)
    )  # else one core waits at the end
    limit = WALKTHROUGHS_LIMIT + REAL_IMAGES_LIMIT
    for path in [p for p in paths if not names and needs_real_images(p)]:
        limit = WALKTHROUGHS_LIMIT
        print(
            f'  skip  {path.relative_to(ROOT)}: the real images that it shows are not here '
            f'(MTMG_REALDATA names their folder); NAMES={path.stem} fetches them'
        )
        paths.remove(path)
    with ThreadPoolExecutor(WORKERS) as pool:
        problems = dict(zip((p.name for p in paths), pool.map(lambda p: walk(p, save), paths)))
    spent = time.time() - start
    print(f'{spent:.0f} s for all')
    if not names and spent > limit:
        print(f'SLOW: on two quiet cores all walkthroughs should take at most {limit} s')
        if spent > BUSY * limit:
            problems['all walkthroughs together'] = f'{spent:.0f} s, more than a busy machine explains'
    return problems


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=('test', 'agree', 'walkthroughs'))
    parser.add_argument('names', nargs='*')
    parser.add_argument('--save', action='store_true', help='keep the fresh outputs of walkthroughs')
    parser.add_argument('--agree', action='store_true', help='after the tests, what `agree` does')
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.command == 'test':
        problems = test(args.names) | (agree() if args.agree else {})
    elif args.command == 'agree':
        problems = agree()
    else:
        problems = walkthroughs(args.names, args.save)
    sys.exit(summary(problems))
