"""The README and the documentation site, from the notebooks and without quarto or a network.

    python tools/docs.py readme            # nbs/index.ipynb -> README.md
    python tools/docs.py site [--execute]  # _docs: a page a notebook, a page a module; --execute runs the modules' notebooks

nbdev's processors strip directives and hidden cells and link names in backticks, nbconvert renders, and every internal
link is checked."""

import argparse
import ast
from bisect import bisect
from collections import defaultdict
from html import escape
from html.parser import HTMLParser
from itertools import groupby
import json
import os
from pathlib import Path, PurePosixPath
import re
import shutil
import sys
from urllib.parse import unquote, urlsplit

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS, SITE = ROOT / 'nbs', ROOT / '_docs'
os.chdir(ROOT)  # nbdev looks for settings.ini upward from here

from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _nbpath2html
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_, hide_line, populate_language, rm_header_dash

DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
SECTIONS = ('Walkthroughs', 'Decisions', 'Modules', 'Experiments', 'API')  # of the menu, in this order
# groups of modules: the first notebook of each, and a title
GROUPS = {
    '00': 'Bands, labels, scenes',
    '01c': 'Figures',
    '02a': 'The mini-world',
    '03c': 'Data',
    '06': 'Models and embeddings',
    '08b': 'Scores',
    '10': 'The gap',
    '10b': 'Training',
    '14': 'Demos',
    '14b_c': 'Runs, speed, command line',
}
WALKTHROUGHS = (
    'quickstart',
    'patching',
    'alignment',
    'gap',
    'own',
    'real',
    'scaling',
    'full',
)  # beginnings of names, as one reads them; the rest follows


def section_of(notebook: Path) -> str:
    "Where a notebook stands in the menu: by its folder; modules are numbered, and what else lies beside them explains decisions."
    folder = notebook.relative_to(NBS).parent.as_posix()
    return folder.capitalize() if folder != '.' else 'Modules' if notebook.name[0].isdigit() else 'Decisions'


def group_of(notebook: Path) -> str:
    "The title above a module in the menu."
    return list(GROUPS.values())[bisect(list(GROUPS), notebook.name) - 1]


def reading_order(notebook: Path) -> tuple:
    "Sorts notebooks as one reads them: the index, walkthroughs, decisions, modules by their number, experiments."
    section = section_of(notebook)
    place = next((i for i, name in enumerate(WALKTHROUGHS) if notebook.stem.startswith(name)), len(WALKTHROUGHS))
    return (
        notebook.name != get_config().readme_nb,
        (*SECTIONS, section).index(section),
        place * (section == 'Walkthroughs'),
        notebook.name,
    )


# ---- notebooks --------------------------------------------------------------------------------------------------------


class Links(NbdevLookup):
    "Public names of the package, linked by `target(page, anchor)`; nbdev's own look-up would point at the published site."

    def __init__(self, target):
        from mtmg._modidx import d

        self.target, self.places = target, {}
        for module, names in d['syms'].items():
            for name, (place, _) in names.items():
                short = name.removeprefix(f'{module}.')
                if not short.startswith('_'):
                    self.places.setdefault(short, place)
                self.places.setdefault(name, place)

    def doc(self, name):
        place = self.places.get(name)
        return self.target(*place.split('#')) if place else None


def public_names(cell) -> list[str]:
    "Anchors of the functions, classes and methods that an exported cell defines."
    if cell.cell_type != 'code' or not {'export', 'exports'} & getattr(cell, 'directives_', {}).keys():
        return []
    names = []
    for node in ast.parse(cell.source).body:
        if not isinstance(node, DEFINITIONS) or node.name.startswith('_'):
            continue
        names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [f'{node.name}.{n.name}' for n in node.body if isinstance(n, DEFINITIONS)]
    return names


def processed(path: Path, links: Links, nb=None, anchors: bool = False):
    "A notebook as a reader should see it: an nbformat notebook without hidden cells and directives, with links."
    from execnb.nbio import dict2nb

    nb = dict2nb(nb or nbformat.read(path, as_version=4))
    nb = NBProcessor(nb=nb, procs=[populate_language, hide_line, rm_header_dash, hide_, clean_magics])
    nb.process()
    cells = []
    for cell in nb.nb.cells:
        if cell.cell_type == 'raw' or 'default_exp' in (getattr(cell, 'directives_', None) or {}):
            continue
        names = public_names(cell) if anchors else []
        if names:
            cells.append(nbformat.v4.new_markdown_cell(''.join(f'<a id="{n.lower()}"></a>' for n in names)))
        if cell.cell_type == 'markdown':
            cells.append(nbformat.v4.new_markdown_cell(links.linkify(cell.source)))
        elif cell.source.strip():
            options = dict(re.findall(r'^#\|\s*(echo|output|include):\s*(\w+)\s*$', cell.source, re.M))
            if options.get('include') == 'false':
                continue
            source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
            shown = [] if options.get('output') == 'false' else [nbformat.from_dict(o) for o in cell.get('outputs', [])]
            if options.get('echo') == 'false' and not shown:
                continue
            metadata = {'echo': options.get('echo') != 'false'}
            if alt := re.search(r'^#\|\s*fig-alt:\s*(.+?)\s*$', cell.source, re.M):
                metadata['alt'] = alt[1]  # nbconvert writes it beside the cell's pictures
            cells.append(nbformat.v4.new_code_cell(source, outputs=shown, metadata=metadata))
    for i, cell in enumerate(cells):
        cell['id'] = f'cell-{i}'
    return nbformat.v4.new_notebook(
        cells=cells, metadata={'language_info': {'name': 'python', 'pygments_lexer': 'python'}}
    )


LINK = re.compile(r'(!?\[[^\]\n]*\]\(|<img [^>]*src="|<a [^>]*href=")([^)"\s]+)')

PICTURE = re.compile(r'!\[([^\]]*)\]\(https?://[^)]*\)')  # on some other server


def relink(nb, change):
    "Apply `change` to the target of every relative link and image of a notebook's prose."
    for cell in nb.cells:
        if cell.cell_type != 'markdown':
            continue
        cell.source = LINK.sub(
            lambda m: m[1] + (m[2] if urlsplit(m[2]).scheme or m[2].startswith('#') else change(m[2])), cell.source
        )
    return nb


# ---- README -----------------------------------------------------------------------------------------------------------


def render_readme() -> tuple[str, dict[str, bytes]]:
    "README.md and the pictures that it shows (path -> bytes), as nbs/index.ipynb gives them."
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    index = NBS / get_config().readme_nb
    pages = {_nbpath2html(p.relative_to(NBS)).as_posix(): p.relative_to(ROOT).as_posix() for p in NBS.rglob('*.ipynb')}
    links = Links(lambda page, anchor: pages.get(page, page))  # GitHub shows the notebooks themselves
    beside = lambda target: os.path.relpath(NBS / target, ROOT)
    nb = relink(relabel(processed(index, links), ROOT), beside)
    config = Config(
        {'NbConvertBase': {'display_data_priority': ['text/markdown', 'image/svg+xml', 'image/png', 'text/plain']}}
    )
    resources = {'output_files_dir': f'{index.stem}_files', 'unique_key': index.stem}
    text, resources = MarkdownExporter(config=config).from_notebook_node(nb, resources=resources)
    notice = f'<!-- made from {index.relative_to(ROOT).as_posix()} by `make readme`: edit the notebook -->'
    return f'{notice}\n\n{text.strip()}\n', resources.get('outputs', {})


def relabel(nb, start: Path):
    "Drop what a page cannot show (the source of `echo: false` cells); GitHub links that Links made are from the root."
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = re.sub(
                r'\]\((nbs/[^)]+)\)', lambda m: f']({os.path.relpath(start / m[1], NBS)})', cell.source
            )
        elif not cell.metadata.get('echo', True):
            cell.metadata['transient'] = {'remove_source': True}
    return nb


def readme() -> int:
    text, pictures = render_readme()
    (ROOT / 'README.md').write_text(text, encoding='utf-8')
    for name, content in pictures.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(content)
    missing = [
        m[2]
        for m in LINK.finditer(text)
        if not urlsplit(m[2]).scheme and not m[2].startswith('#') and not (ROOT / unquote(urlsplit(m[2]).path)).exists()
    ]
    for target in missing:
        print(f'README.md: no file {target}')
    print(f'README.md: {len(text):,} characters, {len(pictures)} pictures, {len(missing)} broken links')
    return int(bool(missing))


# ---- pages ------------------------------------------------------------------------------------------------------------


def exporter():
    "nbconvert's HTML with formulas as MathML, which browsers draw by themselves, instead of a script from a network."
    from html import unescape
    from jinja2 import pass_context
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body):
            return convert(unescape(body), display='block')

        def inline_math(self, body):
            return convert(unescape(body))

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            attachments = context.get('cell', {}).get('attachments', {})
            renderer = Renderer(escape=False, attachments=attachments, anchor_link_text='¶')
            return MarkdownWithMath(renderer=renderer).render(source)

    made = Exporter(template_name='basic', exclude_input_prompt=True, exclude_output_prompt=True)
    made.register_filter(
        'clean_html', lambda html: html
    )  # nbconvert bleaches highlighted code, at half of the time: this code is ours
    made.config.NbConvertBase.display_data_priority = [
        'text/html',
        'text/markdown',
        'image/svg+xml',
        'image/png',
        'image/jpeg',
        'text/latex',
        'text/plain',
    ]  # no widgets: they need a kernel
    return made


def title_of(nb, path: Path) -> tuple[str, str]:
    "Title and sentence of a notebook's first cell (`# Title`, `> sentence`)."
    text = next(
        (c.source for c in nb.cells if c.cell_type == 'markdown' and c.source.lstrip().startswith('# ')),
        f'# {path.stem}',
    )
    sentence = re.search(r'^>\s*(.+)$', text, re.M)
    return text.lstrip().splitlines()[0].lstrip('# ').strip(), sentence[1].strip() if sentence else ''


def stub(node, lines: list[str]) -> str:
    "A definition without its code: decorators, head with the comments of its parameters, docstring, fields and methods."
    start = min([node.lineno] + [d.lineno for d in node.decorator_list]) - 1
    first = node.body[0]
    cut = lines[first.lineno - 1].encode()[: first.col_offset].decode()  # `def f(x): return x` has both on one line
    text = ['\n'.join(lines[start : first.lineno - 1] + [cut]).rstrip()]
    if ast.get_docstring(node):
        text += lines[first.lineno - 1 : first.end_lineno]
    if isinstance(node, ast.ClassDef):
        for below in node.body:
            if isinstance(below, DEFINITIONS) and (below.name == '__init__' or not below.name.startswith('_')):
                text.append(stub(below, lines))
            elif isinstance(below, (ast.AnnAssign, ast.Assign)) and not lines[below.lineno - 1].strip().startswith('_'):
                text += lines[below.lineno - 1 : below.end_lineno]
    return '\n'.join(text)


def api_page(name: str, names: dict) -> tuple[str, str]:
    "A module's sentence, and its public names with signatures as markdown."
    source = (ROOT / f'{name.replace(".", "/")}.py').read_text(encoding='utf-8')
    tree, lines = ast.parse(source), source.splitlines()
    sentence = (ast.get_docstring(tree) or '').partition('\n')[0]
    parts = [f'# {name}', f'> {sentence}']
    for node in tree.body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith('_'):
            place = names.get(f'{name}.{node.name}', ('',))[0]
            anchors = [node.name] + [f'{node.name}.{n.name}' for n in node.body if isinstance(n, DEFINITIONS)]
            parts.append(''.join(f'<a id="{n.lower()}"></a>' for n in anchors))
            parts.append(
                f'## {node.name}\n\n```python\n{stub(node, lines)}\n```'
                + (f'\n\n[Why, how, and its tests](../{place})' if place else '')
            )
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and not node.targets[0].id.startswith('_')
        ):
            text = lines[node.lineno - 1 : node.end_lineno]
            parts.append(
                f'## {node.targets[0].id}\n\n```python\n' + '\n'.join(text[:12] + ['…'] * (len(text) > 12)) + '\n```'
            )
    return sentence, '\n\n'.join(parts)


def built(path: Path, links: Links, execute: bool):
    "A processed notebook; module notebooks keep no outputs, so that their pictures need a run."
    nb = None
    if execute and path.parent == NBS and path.name != get_config().readme_nb:
        from notebooks import execute as run

        print(f'running {path.relative_to(ROOT)}', flush=True)
        nb = run(path)
    return processed(path, links, nb, anchors=True)


def neighbours_of(page: str, order: list[str], pages: dict) -> str:
    "Links to the page before and the page after."
    at, here = order.index(page), PurePosixPath(page).parent
    link = lambda p, text: f'<a href="{os.path.relpath(p, here)}">{text}</a>'
    before = link(order[at - 1], f'← {pages[order[at - 1]][0]}') if at else ''
    after = link(order[at + 1], f'{pages[order[at + 1]][0]} →') if at + 1 < len(order) else ''
    return f'<footer><span>{before}</span><span>{after}</span></footer>'


def headings(body: str) -> str:
    "A page's list of its own sections."
    found = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body, re.S)
    return (
        '<aside><b>On this page</b>' + ''.join(f'<a href="#{i}">{t}</a>' for i, t in found) + '</aside>'
        if len(found) > 1
        else ''
    )


def menu_of(page: str, navigation: dict) -> str:
    "The menu as one page sees it: long lists are open where the page is in them."
    link = lambda target, text: (
        f'<a href="{os.path.relpath(target, PurePosixPath(page).parent)}"{" class=here" if target == page else ""}>{escape(text)}</a>'
    )
    menu = [link('index.html', get_config().title)]
    for section in SECTIONS:
        entries = navigation[section]
        shown = section not in ('API', 'Modules') or any(p == page for p, *_ in entries)
        parts = [
            (f'<b>{escape(group)}</b>' if group else '') + ''.join(link(p, t) for p, t, _ in own)
            for group, own in groupby(entries, key=lambda e: e[2])
        ]
        if entries:
            menu.append(f'<details{" open" if shown else ""}><summary>{section}</summary>{"".join(parts)}</details>')
    return '\n'.join(menu)


def site(execute: bool) -> int:
    "Write _docs; the exit status."
    from mtmg._modidx import d

    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir()
    paths = [
        p for p in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in p.relative_to(NBS).parts)
    ]
    paths.sort(key=reading_order)
    page_of = {p: _nbpath2html(p.relative_to(NBS)).as_posix() for p in paths}
    for p in NBS.rglob('*'):  # pictures that prose shows
        if p.suffix in ('.png', '.jpg', '.svg', '.gif') and not any(
            part.startswith('.') for part in p.relative_to(NBS).parts
        ):
            target = SITE / p.relative_to(NBS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(p, target)

    source = f'{get_config().git_url}/blob/{get_config().branch}'
    pages, navigation = (
        {},
        defaultdict(list),
    )  # page -> (title, notebook, its source); section -> [(page, title, group)]
    for path in paths:
        page = page_of[path]
        here = PurePosixPath(page).parent
        links = Links(lambda target, anchor: f'{os.path.relpath(target, here)}#{anchor}')
        nb = built(path, links, execute)

        def follow(target):
            url = urlsplit(target)
            file = (path.parent / unquote(url.path)).resolve()
            if file in page_of:
                return os.path.relpath(page_of[file], here) + (f'#{url.fragment}' if url.fragment else '')
            if file.suffix == '.html' or (SITE / here / unquote(url.path)).exists() or not file.exists():
                return target
            return f'{source}/{file.relative_to(ROOT).as_posix()}'

        title, sentence = title_of(nb, path)
        for cell in nb.cells:  # a page asks no network: pictures from elsewhere become their words
            if cell.cell_type == 'markdown':
                cell.source = PICTURE.sub(r'\1', cell.source)
        pages[page] = title, relink(relabel(nb, ROOT), follow), path.relative_to(ROOT).as_posix()
        if page != 'index.html':
            navigation[section_of(path)].append((page, title, group_of(path) if section_of(path) == 'Modules' else ''))
    overview = ['# API', '> Every public name, with its signature.']
    found = [[title, page, ''] for page, (title, *_) in pages.items()]  # what the search knows: words, page, where
    navigation['API'].append(('api/index.html', 'all names', ''))
    for name, names in sorted(d['syms'].items()):
        page = f'api/{name.removeprefix("mtmg.")}.html'
        sentence, text = api_page(name, names)
        public = [
            n.removeprefix(f'{name}.')
            for n in names
            if n.count('.') == name.count('.') + 1 and not n.split('.')[-1].startswith('_')
        ]
        listed = ' · '.join(f'[`{n}`]({PurePosixPath(page).name}#{n.lower()})' for n in public)
        overview.append(f'**[{name}]({PurePosixPath(page).name})** {sentence}\n\n{listed}')
        found += [[n, f'{page}#{n.lower()}', name] for n in public]
        pages[page] = (
            name,
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]),
            f'{name.replace(".", "/")}.py',
        )
        navigation['API'].append((page, name.removeprefix('mtmg.'), ''))
    pages['api/index.html'] = (
        'API',
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('\n\n'.join(overview))]),
        get_config().lib_path.name,
    )

    render, frame = exporter(), (ROOT / 'tools' / 'page.html').read_text(encoding='utf-8')
    order = [page_of[p] for p in paths]
    for page, (title, nb, file) in pages.items():
        body, _ = render.from_notebook_node(nb)
        parts = {
            'title': title,
            'root': os.path.relpath('.', PurePosixPath(page).parent),
            'menu': menu_of(page, navigation),
            'sections': headings(body),
            'source': f'{source}/{file}',
            'kind': 'api' if page.startswith('api/') else 'notebook',
            'body': body + (neighbours_of(page, order, pages) if page in order else ''),
        }
        (SITE / page).parent.mkdir(parents=True, exist_ok=True)
        (SITE / page).write_text(re.sub(r'{{(\w+)}}', lambda m: parts[m[1]], frame), encoding='utf-8')
        if page in order:
            found += [
                [re.sub('<[^>]+>', '', t), f'{page}#{i}', title]
                for i, t in re.findall(r'<h[23] id="([^"]+)">(.*?)<a class="anchor-link"', body, re.S)
            ]
    (SITE / 'search.js').write_text(
        f'const FOUND = {json.dumps(found, ensure_ascii=False)}', encoding='utf-8'
    )  # a script, as a page opened from disk may read no other file
    broken = broken_links(SITE)
    for line in broken[:30]:
        print(line)
    print(
        f'{SITE.relative_to(ROOT)}: {len(pages)} pages, {len(broken)} broken links; open {SITE.relative_to(ROOT)}/index.html'
    )
    return int(bool(broken))


# ---- links ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    "The anchors of a page and what it links to."

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.targets, self.loaded = {''}, [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ('id', 'name') if attrs.get(key)}
        if tag == 'a' and attrs.get('href'):
            self.targets.append(attrs['href'])
        if attrs.get('src'):
            self.targets.append(attrs['src'])
        if tag in ('script', 'link', 'img') and (attrs.get('src') or attrs.get('href')):
            self.loaded.append(attrs.get('src') or attrs['href'])


def broken_links(site: Path) -> list[str]:
    "Internal links without a page or an anchor, and scripts or styles from elsewhere."
    pages = {p.resolve(): Page(p) for p in site.rglob('*.html')}
    broken = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        broken += [
            f'{where}: loads {url} from a network'
            for url in page.loaded
            if urlsplit(url).scheme in ('http', 'https') or url.startswith('//')
        ]
        for target in page.targets:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not file.exists():
                broken.append(f'{where}: no page {target}')
            elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].ids:
                broken.append(f'{where}: no anchor {target}')
    return broken


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=('readme', 'site'))
    parser.add_argument(
        '--execute', action='store_true', help="run the modules' notebooks for their pictures (minutes)"
    )
    args = parser.parse_args()
    sys.exit(readme() if args.command == 'readme' else site(args.execute))
