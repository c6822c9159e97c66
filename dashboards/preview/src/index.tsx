// The page: a board as Grafana lays it out. `data-state` of the body is "drawn" once every panel is.

import '@fontsource-variable/inter';
import './preview.css';

import { createTheme, type DataFrame, ThemeContext } from '@grafana/data';
import { GlobalStyles, PanelChrome } from '@grafana/ui';
import { memo, useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { board, factor, from, type Panel, selected, text, theme as mode, to } from './board';
import { ask, load } from './data';
import { Viz } from './panels';

/** Grafana's grid: 24 columns, rows of 30 pixels, and gaps of 8. */
const gap = 8;
const width = document.body.clientWidth - 2 * gap;

function place({ x, y, w, h }: Panel['gridPos']) {
  const column = (width + gap) / 24;
  return { left: x * column, top: y * (30 + gap), width: w * column - gap, height: h * (30 + gap) - gap };
}

const time = (at: number) => new Date(at).toISOString().slice(11, 19);

function Header() {
  const variables = board.templating.list.filter(({ type }) => type === 'query');
  return (
    <header>
      <h1>{board.title}</h1>
      {variables.map(({ name, label }) => (
        <span className="variable" key={name}>
          <b>{label}</b>
          {selected(name) ?? 'All'}
        </span>
      ))}
      <span className="variable">
        {time(from)} to {time(to)} UTC
      </span>
      <p>
        Preview drawn with Grafana's components; not Grafana.
        {factor > 1 && ` A real outage with all times of rules and boards divided by ${factor}: an hour is a minute.`}
      </p>
    </header>
  );
}

interface CellProps {
  panel: Panel;
  frames: DataFrame[];
  marks: number[];
}

/** Panel or heading of a row, in its place. */
const Cell = memo(function Cell({ panel, frames, marks }: CellProps) {
  const { left, top, width, height } = place(panel.gridPos);
  return (
    <section style={{ left, top, width, height }}>
      {panel.type === 'row' ? (
        <h2>{text(panel.title)}</h2>
      ) : (
        <PanelChrome title={text(panel.title)} width={width} height={height}>
          {(width, height) => <Viz panel={panel} frames={frames} marks={marks} width={width} height={height} />}
        </PanelChrome>
      )}
    </section>
  );
});

function Body({ frames, marks }: { frames: DataFrame[][]; marks: number[] }) {
  const { panels } = board;
  // One panel after the other, so that the page answers meanwhile on a busy machine.
  const [drawn, setDrawn] = useState(0);
  useEffect(() => {
    const next = () => (drawn < panels.length ? setDrawn(drawn + 1) : (document.body.dataset.state = 'drawn'));
    const timer = setTimeout(next);
    return () => clearTimeout(timer);
  }, [panels, drawn]);
  const rows = panels.map(({ gridPos }) => gridPos.y + gridPos.h);
  return (
    <main style={{ height: Math.max(...rows) * (30 + gap) }}>
      {panels.slice(0, drawn).map((panel, at) => (
        <Cell key={at} panel={panel} frames={frames[at]} marks={marks} />
      ))}
    </main>
  );
}

async function main() {
  const theme = createTheme({
    colors: { mode: mode === 'dark' ? 'dark' : 'light' },
    typography: { fontFamily: '"Inter Variable", sans-serif' },
  });
  await document.fonts.load('14px "Inter Variable"');
  const frames = await Promise.all(board.panels.map((panel) => load(panel, theme)));
  const annotations = await Promise.all(board.annotations.list.map(({ target }) => ask(target)));
  // An annotation is shown at the first of the points at which its query has a value.
  const marks = annotations.flat().map(({ values }) => values![0][0] * 1e3);
  createRoot(document.getElementById('board')!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Header />
      <Body frames={frames} marks={marks} />
    </ThemeContext.Provider>,
  );
}

main().catch((error) => {
  document.body.dataset.state = `cannot draw the board: ${error}`;
});
