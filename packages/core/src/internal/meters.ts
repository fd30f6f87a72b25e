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
 * Creates the recorder of a family. A series is made once, with its labels in place, and found again by one look into a map. Metrics are never
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
  const context = Context.make(Metric.MetricRegistry, Context.get(options.context, Metric.MetricRegistry)).pipe(
    Context.add(Metric.CurrentMetricAttributes, Context.get(options.context, Metric.CurrentMetricAttributes))
  )
  const root: Branch = new Map()
  const last = Math.max(0, definition.labels.length - 1)
  let size = 0
  const beyond = definition.labels.map(() => other)
  // A map of maps: the strings are there already, while a key made of them would have to be written and hashed each time.
  const seriesOf = (labels: ReadonlyArray<string>, most: number): Series => {
    let branch = root
    for (let index = 0; index < last; index++) {
      const label = labels[index] ?? ""
      const next = branch.get(label)
      if (next instanceof Map) branch = next
      else if (size >= most) return seriesOf(beyond, Infinity)
      else {
        const made: Branch = new Map()
        branch.set(label, made)
        branch = made
      }
    }
    const label = labels[last] ?? ""
    const known = branch.get(label)
    if (known !== undefined && !(known instanceof Map)) return known
    if (size >= most) return seriesOf(beyond, Infinity)
    const made = create(definition, labels)
    branch.set(label, made)
    size++
    onSeries(made)
    return made
  }
  return (value, ...labels) => seriesOf(labels, maxSeries).updateUnsafe(value, context)
}

type Series = Metric.Metric<number, unknown>
type Branch = Map<string, Series | Branch>

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
