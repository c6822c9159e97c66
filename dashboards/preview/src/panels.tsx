// The panel types of the boards, each drawn by the component of @grafana/ui that Grafana's own panel uses, or by the nearest one.

import {
  type DataFrame,
  dateTime,
  type FieldDisplay,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  getFieldSeriesColor,
  type TimeRange,
  VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, useTheme2, VizRepeater, type VizRepeaterRenderValueProps } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

import { from, type Panel, to } from './board';
import { Annotations, Heatmap, StateTimeline } from './canvas';

export interface PanelProps {
  panel: Panel;
  frames: DataFrame[];
  /** Times of the annotations. */
  marks: number[];
  width: number;
  height: number;
}

type ValueProps = VizRepeaterRenderValueProps<FieldDisplay, ReturnType<typeof getDisplayValueAlignmentFactors>>;

const timeRange: TimeRange = {
  from: dateTime(from),
  to: dateTime(to),
  raw: { from: dateTime(from), to: dateTime(to) },
};

function Graph({ panel, frames, marks, ...size }: PanelProps) {
  const theme = useTheme2();
  const color = theme.visualization.getColorByName('purple');
  // The component joins the frames and loses their names, by which the palette has chosen the colors of the legend.
  for (const field of frames.flatMap(({ fields }) => fields)) {
    field.config.color = { mode: 'fixed', fixedColor: getFieldSeriesColor(field, theme).color };
  }
  return (
    <TimeSeries frames={frames} timeRange={timeRange} timeZone="utc" legend={panel.options.legend} {...size}>
      {(builder) => <Annotations builder={builder} times={marks} color={color} />}
    </TimeSeries>
  );
}

/** Stat or bar gauge: a value per series. */
function Values({ panel: { type, options, fieldConfig }, frames, ...size }: PanelProps) {
  const theme = useTheme2();
  const { reduceOptions } = options;
  const values = () =>
    getFieldDisplayValues({ data: frames, reduceOptions, fieldConfig, replaceVariables: (text) => text, theme });
  const stat = ({ value, alignmentFactors, count, width, height }: ValueProps) => (
    <BigValue
      {...{ theme, alignmentFactors, count, width, height }}
      value={value.display}
      colorMode={options.colorMode}
      graphMode={options.graphMode}
      justifyMode={options.justifyMode}
      textMode={options.textMode}
    />
  );
  const bar = ({
    value: { display, field, view, colIndex },
    alignmentFactors,
    orientation,
    width,
    height,
  }: ValueProps) => (
    <BarGauge
      {...{ theme, alignmentFactors, orientation, width, height, field }}
      value={display}
      display={view?.getFieldDisplayProcessor(colIndex ?? 0)}
      displayMode={options.displayMode}
      valueDisplayMode={options.valueMode}
      namePlacement={options.namePlacement}
      showUnfilled={options.showUnfilled}
    />
  );
  const isStat = type === 'stat';
  return (
    <VizRepeater
      {...size}
      source={frames}
      getValues={values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={isStat ? stat : bar}
      renderCounter={0}
      orientation={isStat ? VizOrientation.Auto : options.orientation}
      autoGrid={isStat}
      itemSpacing={isStat ? 3 : 10}
      minVizHeight={16}
      maxVizHeight={isStat ? undefined : 28}
    />
  );
}

function Table({ panel, frames, ...size }: PanelProps) {
  const { cellHeight, showHeader, sortBy } = panel.options;
  return <TableNG data={frames[0]} {...{ cellHeight, sortBy, timeRange }} noHeader={!showHeader} {...size} />;
}

/** Draws a panel; if it has no data, its text for that. */
export function Viz(props: PanelProps) {
  const { panel, frames, marks, ...size } = props;
  const { defaults } = panel.fieldConfig;
  if (!frames.some(({ length }) => length > 0) && panel.type !== 'stat' && panel.type !== 'bargauge') {
    return <div className="empty">{defaults.noValue ?? 'No data'}</div>;
  }
  switch (panel.type) {
    case 'timeseries':
      return <Graph {...props} />;
    case 'stat':
    case 'bargauge':
      return <Values {...props} />;
    case 'table':
      return <Table {...props} />;
    case 'state-timeline':
      return <StateTimeline {...size} frames={frames} fillOpacity={defaults.custom.fillOpacity} />;
    case 'heatmap':
      return (
        <Heatmap {...size} frames={frames} exponent={panel.options.color.exponent} unit={panel.options.yAxis.unit} />
      );
    default:
      throw new Error(`no component draws a panel of the type ${panel.type}`);
  }
}
