// Model of a board in dashboards/*.json, and the settings of the page from its address.

import type { DataTransformerConfig, FieldConfigSource } from '@grafana/data';

import device from '../../device.json';
import fleet from '../../fleet.json';

export interface Target {
  refId: string;
  expr: string;
  instant?: boolean;
  format?: string;
  legendFormat?: string;
}

export interface Panel {
  type: string;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: Target[];
  fieldConfig: FieldConfigSource;
  // Each type of panel has its own.
  options: any;
  transformations?: DataTransformerConfig[];
}

export interface Board {
  title: string;
  templating: { list: Array<{ name: string; label: string; type: string }> };
  annotations: { list: Array<{ name: string; iconColor: string; target: { expr: string } }> };
  panels: Panel[];
}

const settings = new URLSearchParams(location.search);
const setting = (name: string, byDefault: string) => settings.get(name) ?? byDefault;

export const theme = setting('theme', 'light');
export const prometheus = setting('prometheus', 'http://127.0.0.1:9090');
/** Scrape interval of Prometheus in seconds, before it is divided. */
const scrapeInterval = 30;
/** Divisor of all times, as of `scripts/shorten-rules`. */
export const factor = Number(setting('factor', '1'));
/** End and length of the shown period, in milliseconds. Both boards begin with three hours. */
export const to = Number(setting('to', String(Date.now())));
export const range = (3 * 3600e3) / factor;
export const from = to - range;
/** Time between two points, in milliseconds: never less than that between two scrapes. */
export const interval = (scrapeInterval * 1e3) / factor;

const boards: Record<string, unknown> = { device, fleet };
export const board = shortened(boards[setting('board', 'fleet')] as Board);

/** Selected value of a variable; all values by default. */
export function selected(variable: string): string | null {
  return settings.get(variable);
}

/** Fills in the variables of a query as Grafana does. */
export function fill(query: string): string {
  return query
    .replaceAll('$__rate_interval', `${4 * interval}ms`)
    .replaceAll('$__range', `${range}ms`)
    .replaceAll(/"\$(job|instance|client_id)"/g, (_, name) => JSON.stringify(selected(name) ?? '.+'));
}

/** Fills in the variables of a title. */
export function text(title: string): string {
  return title.replaceAll(/\$(\w+)/g, (_, name) => selected(name) ?? 'All');
}

/**
 * Divides the times of a board by the factor, as `scripts/shorten-rules` does with those of the rules: offsets and limits of ages
 * in queries, and thresholds of a minute and more.
 */
function shortened(board: Board): Board {
  const copy = structuredClone(board);
  for (const { targets, fieldConfig } of copy.panels) {
    for (const target of targets ?? []) {
      target.expr = target.expr
        .replaceAll(/offset (\d+)m/g, (_, minutes) => `offset ${(minutes * 60e3) / factor}ms`)
        .replaceAll(/(_age_seconds[^>]*> (?:bool )?)(\d+)/g, `$1$2 / ${factor}`);
    }
    const overridden = (fieldConfig?.overrides ?? []).map(({ properties }) =>
      Object.fromEntries(properties.map(({ id, value }) => [id, value])),
    );
    for (const { unit, thresholds } of [fieldConfig?.defaults ?? {}, ...overridden]) {
      for (const step of (unit === 's' && thresholds?.steps) || []) {
        if (step.value !== null && step.value >= 60) {
          step.value /= factor;
        }
      }
    }
  }
  return copy;
}
