// Charts that @grafana/ui does not export: the nearest ones, drawn on its plot with its axes.

import { useLayoutEffect, useMemo } from 'react';
import {
  type DataFrame,
  getFieldDisplayName,
  getValueFormat,
  type GrafanaTheme2,
  formattedValueToString,
} from '@grafana/data';
import { AxisPlacement, ScaleDirection, ScaleOrientation } from '@grafana/schema';
import { measureText, UPlotChart, UPlotConfigBuilder, useTheme2 } from '@grafana/ui';
import type uPlot from 'uplot';

import { from, interval, to } from './board';
import { bound } from './data';

interface Size {
  width: number;
  height: number;
}

/** Rectangle in a row of a chart, from one time to another. */
interface Cell {
  row: number;
  start: number;
  end: number;
  color: string;
  opacity: number;
  text?: string;
}

interface CellsProps extends Size {
  cells: Cell[];
  /** Names of the rows, from below. */
  rows: string[];
  /** Share of a row that a cell fills. */
  fill: number;
  /** Set if a name belongs to the upper edge of its row, as the bound of a bucket does. */
  isBound?: boolean;
}

const pixels = () => window.devicePixelRatio;

function drawCells(u: uPlot, { cells, fill }: CellsProps, theme: GrafanaTheme2) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.font = `${12 * pixels()}px ${theme.typography.fontFamily}`;
  ctx.textBaseline = 'middle';
  ctx.textAlign = 'left';
  for (const { row, start, end, color, opacity, text } of cells) {
    const [left, right] = [start, end].map((time) => u.valToPos(time, 'x', true));
    const [top, bottom] = [row + 0.5 + fill / 2, row + 0.5 - fill / 2].map((y) => u.valToPos(y, 'y', true));
    ctx.globalAlpha = opacity;
    ctx.fillStyle = color;
    ctx.fillRect(left, top, right - left, bottom - top);
    if (text && ctx.measureText(text).width + 8 * pixels() < right - left) {
      ctx.globalAlpha = 1;
      ctx.fillStyle = theme.colors.getContrastText(color);
      ctx.fillText(text, Math.max(left, bbox.left) + 4 * pixels(), (top + bottom) / 2);
    }
  }
  ctx.restore();
}

function Cells(props: CellsProps) {
  const { rows, width, height, isBound } = props;
  const theme = useTheme2();
  const config = useMemo(() => {
    const builder = new UPlotConfigBuilder('utc');
    builder.setPadding(padding);
    const horizontal = { orientation: ScaleOrientation.Horizontal, direction: ScaleDirection.Right };
    const vertical = { orientation: ScaleOrientation.Vertical, direction: ScaleDirection.Up };
    builder.addScale({ scaleKey: 'x', isTime: true, ...horizontal, range: () => [from, to] });
    builder.addScale({ scaleKey: 'y', ...vertical, range: () => [0, rows.length] });
    builder.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, timeZone: 'utc', theme });
    // As many names as there is room for.
    const step = Math.ceil((rows.length * 18) / height);
    const named = rows.map((_, row) => row).filter((row) => row % step === 0);
    builder.addAxis({
      scaleKey: 'y',
      placement: AxisPlacement.Left,
      theme,
      grid: { show: false },
      size: Math.max(...rows.map((name) => measureText(name, 12).width)) + 16,
      splits: named.map((row) => row + (isBound ? 1 : 0.5)),
      values: named.map((row) => rows[row]),
    });
    // A plot needs a series; this one has no line.
    builder.addSeries({ scaleKey: 'y', theme, pathBuilder: () => null });
    builder.addHook('draw', (u) => drawCells(u, props, theme));
    return builder;
  }, [props, theme]);
  const data: uPlot.AlignedData = [
    [from, to],
    [null, null],
  ];
  return <UPlotChart config={config} data={data} width={width} height={height} />;
}

interface FramesProps extends Size {
  frames: DataFrame[];
}

/** State timeline: equal values in a row become one cell. */
export function StateTimeline({ frames, fillOpacity, ...size }: FramesProps & { fillOpacity: number }) {
  // The first one is at the top.
  const reversed = [...frames].reverse();
  const cells = reversed.flatMap(({ fields: [times, values] }, row) => {
    const states: Cell[] = [];
    values.values.forEach((value, at) => {
      const { text, color } = values.display!(value);
      const last = states.at(-1);
      const start = times.values[at];
      if (last?.text === text && start - last.end <= interval) {
        last.end = start;
      } else {
        states.push({ row, start, end: start, color: color!, opacity: fillOpacity / 100, text });
      }
    });
    // A state lasts until the next point.
    return states.map((state) => ({ ...state, end: Math.min(state.end + interval, to) }));
  });
  const rows = reversed.map((frame) => getFieldDisplayName(frame.fields[1], frame));
  return <Cells {...size} cells={cells} rows={rows} fill={0.9} />;
}

/** Heatmap of buckets: the more, the darker. */
export function Heatmap({ frames, exponent, unit, ...size }: FramesProps & { exponent: number; unit: string }) {
  const color = useTheme2().visualization.getColorByName('dark-orange');
  const counts = frames.flatMap(({ fields }) => fields[1].values);
  const most = counts.reduce((most, count) => Math.max(most, count), 0);
  const cells = frames.flatMap(({ fields: [times, values] }, row) =>
    times.values.flatMap((time, at) => {
      const count = values.values[at];
      return count > 1e-9 ? { row, start: time - interval, end: time, color, opacity: (count / most) ** exponent } : [];
    }),
  );
  const format = getValueFormat(unit);
  const rows = frames.map(({ fields }) => {
    const upper = bound(fields[1].labels!);
    return Number.isFinite(upper) ? formattedValueToString(format(upper)) : '∞';
  });
  return <Cells {...size} cells={cells} rows={rows} fill={1} isBound />;
}

/** Space for the last time at the right edge of a plot. */
const padding: uPlot.Padding = [null, 16, null, null];

/** Dashed lines at the times of annotations, within a graph. */
export function Annotations({
  builder,
  times,
  color,
}: {
  builder: UPlotConfigBuilder;
  times: number[];
  color: string;
}) {
  useLayoutEffect(() => {
    builder.setPadding(padding);
    builder.addHook('draw', ({ ctx, bbox, valToPos }) => {
      ctx.save();
      ctx.strokeStyle = color;
      ctx.lineWidth = pixels();
      ctx.setLineDash([3 * pixels(), 3 * pixels()]);
      for (const time of times) {
        const x = valToPos(time, 'x', true);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.restore();
    });
  }, [builder, times, color]);
  return null;
}
