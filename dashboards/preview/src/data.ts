// Answers of Prometheus as Grafana's data frames, with the transformations and field options of a panel applied.

import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  type DataFrame,
  type Field,
  FieldConfigOptionsRegistry,
  FieldType,
  type GrafanaTheme2,
  identityOverrideProcessor,
  type Labels,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { lastValueFrom } from 'rxjs';

import { fill, from, interval, type Panel, prometheus, type Target, to } from './board';

interface Series {
  metric: Labels;
  value?: [number, string];
  values?: Array<[number, string]>;
}

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformer) => ({
    id: transformer.id,
    name: transformer.name,
    transformation: () => Promise.resolve(transformer as any),
    editor: () => null,
    imageDark: '',
    imageLight: '',
  })),
);

const standard = ['unit', 'min', 'max', 'decimals', 'noValue', 'thresholds', 'mappings', 'links', 'color'];

/** Field options that a panel sets. In Grafana, each plugin registers its own. */
function registry({ fieldConfig: { defaults, overrides } }: Panel): FieldConfigOptionsRegistry {
  const own = Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`);
  const overridden = overrides.flatMap(({ properties }) => properties.map(({ id }) => id));
  const ids = [...new Set([...standard, ...own, ...overridden])];
  return new FieldConfigOptionsRegistry(() =>
    ids.map((id) => ({
      id,
      name: id,
      path: id.replace('custom.', ''),
      isCustom: id.startsWith('custom.'),
      process: identityOverrideProcessor,
      shouldApply: () => true,
      getItemsCount: () => 0,
      editor: () => null,
      override: () => null,
    })),
  );
}

async function get(path: string, parameters: Record<string, string>): Promise<any> {
  const answer = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const { data, error } = await answer.json();
  if (error) {
    throw new Error(`${parameters.query}: ${error}`);
  }
  return data;
}

/** Series that a query selects, at the end of the shown period or over all of it. */
export async function ask({ expr, instant }: Pick<Target, 'expr' | 'instant'>): Promise<Series[]> {
  const query = fill(expr);
  const times: Record<string, string> = instant
    ? { time: String(to / 1e3) }
    : { start: String(from / 1e3), end: String(to / 1e3), step: String(interval / 1e3) };
  return (await get(instant ? 'query' : 'query_range', { query, ...times })).result;
}

const field = (name: string, type: FieldType, values: unknown[], more: Partial<Field> = {}): Field => ({
  name,
  type,
  values,
  config: {},
  ...more,
});

/** A frame per series, as for graphs. */
function graphFrame({ metric, value, values }: Series, { refId, legendFormat }: Target): DataFrame {
  const samples = values ?? [value!];
  const legend = (legendFormat ?? '').replaceAll(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
  const labels = Object.entries(metric).map(([label, value]) => `${label}="${value}"`);
  const config = { displayNameFromDS: legend || `{${labels.join(', ')}}` };
  const times = samples.map(([time]) => time * 1e3);
  const numbers = samples.map(([, number]) => Number(number));
  // As in Grafana, nothing is drawn for NaN and infinity.
  const finite = numbers.map((number) => (Number.isFinite(number) ? number : null));
  return {
    refId,
    length: samples.length,
    fields: [
      // Points that are further apart than the interval are not connected.
      field('Time', FieldType.time, times, { config: { interval } }),
      field('Value', FieldType.number, finite, { labels: metric, config }),
    ],
  };
}

/** A frame per query, with a column per label, as for tables. */
function tableFrame(series: Series[], refId: string, value: string): DataFrame {
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const columns = labels.map((label) =>
    field(
      label,
      FieldType.string,
      series.map(({ metric }) => metric[label] ?? ''),
    ),
  );
  const times = series.map(({ value }) => value![0] * 1e3);
  const numbers = series.map(({ value }) => Number(value![1]));
  return {
    refId,
    length: series.length,
    fields: [
      field('Time', FieldType.time, times),
      ...columns,
      field(value, FieldType.number, numbers, { config: { displayNameFromDS: value } }),
    ],
  };
}

/** Upper bound of a bucket. */
export function bound({ le }: Labels): number {
  return le === '+Inf' ? Infinity : Number(le);
}

/** Counts of the buckets of a histogram, which Prometheus accumulates, by their upper bounds. */
function bucketFrames(series: Series[], target: Target): DataFrame[] {
  const sorted = [...series].sort((a, b) => bound(a.metric) - bound(b.metric));
  const frames = sorted.map((one) => graphFrame(one, target));
  for (let bucket = frames.length - 1; bucket > 0; bucket--) {
    const below = frames[bucket - 1].fields;
    const counts = new Map(below[0].values.map((time, at) => [time, below[1].values[at]]));
    const [times, values] = frames[bucket].fields;
    values.values = values.values.map((count, at) => count - (counts.get(times.values[at]) ?? 0));
  }
  return frames;
}

/** Frames of a panel, ready to be drawn; none if its queries have no results. */
export async function load(panel: Panel, theme: GrafanaTheme2): Promise<DataFrame[]> {
  const { targets } = panel;
  if (!targets) {
    return [];
  }
  const answers = await Promise.all(targets.map(ask));
  const answered = targets.map((target, at) => ({ target, series: answers[at] })).filter(({ series }) => series.length);
  const frames = answered.flatMap(({ target, series }) => {
    switch (target.format) {
      case 'table':
        return tableFrame(series, target.refId, answered.length > 1 ? `Value #${target.refId}` : 'Value');
      case 'heatmap':
        return bucketFrames(series, target);
      default:
        return series.map((one) => graphFrame(one, target));
    }
  });
  const transformed = transformDataFrame(panel.transformations ?? [], frames, { interpolate: (text) => text });
  const ready = applyFieldOverrides({
    data: await lastValueFrom(transformed),
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: registry(panel),
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(ready);
  return ready;
}
