import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"

/** One family of series: its name, what it counts, and the names of its labels. */
export interface Definition<Labels extends ReadonlyArray<string> = ReadonlyArray<string>> {
  readonly name: string
  readonly type: "counter" | "gauge" | "histogram"
  /** As UCUM writes it; what is in braces is a remark. */
  readonly unit: string
  readonly description: string
  readonly labels: Labels
  readonly boundaries?: ReadonlyArray<number> | undefined
}

/** Records a value in the series of these label values, in the order of the definition. */
export type Record<Labels extends ReadonlyArray<string>> = (
  value: number,
  ...labels: { readonly [K in keyof Labels]: string }
) => void

/** What stands for every further combination of label values once a family has its most series. */
export const other = "other"

/**
 * Creates the recorder of a family. A series is made once, with its labels in place, and found again by its labels. Metrics are never
 * evicted, so a label that takes more values than anybody expected ends in one series that says so.
 */
export const recorder = <const Labels extends ReadonlyArray<string>>(
  definition: Definition<Labels>,
  options: {
    readonly context: Context.Context<never>
    readonly maxSeries: number
    readonly onSeries: (series: Metric.Metric<number, unknown>) => void
  }
): Record<Labels> => {
  const { maxSeries, onSeries } = options
  // Looked up in every update, so it holds nothing else.
  const context = Context.empty().pipe(
    Context.add(Metric.MetricRegistry, Context.get(options.context, Metric.MetricRegistry)),
    Context.add(Metric.CurrentMetricAttributes, Context.get(options.context, Metric.CurrentMetricAttributes))
  )
  const root = branch("")
  const beyond = definition.labels.map(() => other)
  let size = 0
  const seriesOf = (labels: ReadonlyArray<string>, most: number): Series => {
    let at = root
    for (let index = 0; index < beyond.length; index++) {
      const label = labels[index] ?? ""
      // Values that follow each other mostly go to the same series: a comparison saves the look into the map.
      let next = at.latest
      if (next?.label !== label) {
        next = at.branches.get(label)
        if (next === undefined) {
          if (size >= most) return seriesOf(beyond, Infinity)
          next = branch(label)
          at.branches.set(label, next)
        }
        at.latest = next
      }
      at = next
    }
    if (at.series === undefined) {
      if (size >= most) return seriesOf(beyond, Infinity)
      at.series = create(definition, labels)
      size++
      onSeries(at.series)
    }
    return at.series
  }
  return (value, ...labels) => seriesOf(labels, maxSeries).updateUnsafe(value, context)
}

type Series = Metric.Metric<number, unknown>

/** A tree of label values: the strings are there already, while a key made of them would have to be written and hashed each time. */
interface Branch {
  readonly label: string
  readonly branches: Map<string, Branch>
  latest: Branch | undefined
  series: Series | undefined
}

const branch = (label: string): Branch => ({ label, branches: new Map(), latest: undefined, series: undefined })

/** Shows what `read` gives whenever somebody looks, until the scope closes. */
export const shown = (
  definition: Definition,
  labels: ReadonlyArray<string>,
  read: () => number
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.contextWith((context: Context.Context<never>) =>
        Effect.sync(() =>
          Metric.registerUnsafe(create(definition, labels), context, {
            get: () => ({ value: read() }),
            update: () => {},
            modify: () => {}
          })
        )
      ),
      (registration) => Effect.sync(() => registration.remove())
    )
  )

// What is not there, the error of a success for one, is no label.
const create = (definition: Definition, labels: ReadonlyArray<string>): Metric.Metric<number, unknown> => {
  const { boundaries, description, name, type, unit } = definition
  const named = definition.labels.map((label, index) => [label, labels[index] ?? ""] as const)
  const attributes = { ...Object.fromEntries(named.filter(([, value]) => value !== "")), unit }
  switch (type) {
    case "counter":
      return Metric.counter(name, { description, attributes, incremental: true })
    case "gauge":
      return Metric.gauge(name, { description, attributes })
    case "histogram":
      return Metric.histogram(name, { description, attributes, boundaries: boundaries ?? [] })
  }
}
