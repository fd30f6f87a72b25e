import { createRequire } from "node:module"
import { Effect, Schema } from "effect"

/** What a receiver that others wrote made of the bytes that arrived. */
export interface Received {
  readonly spans: ReadonlyArray<Span>
  readonly metrics: ReadonlyArray<Metric>
  readonly logs: ReadonlyArray<Log>
  readonly services: ReadonlySet<unknown>
  /** Everything, to look for what must not be there. */
  readonly text: string
}

const Attributes = Schema.optional(Schema.Record(Schema.String, Schema.Unknown))

const Span = Schema.Struct({
  traceId: Schema.String,
  spanId: Schema.String,
  parentSpanId: Schema.optional(Schema.NullOr(Schema.String)),
  name: Schema.String,
  kind: Schema.String,
  attributes: Attributes,
  events: Schema.optional(Schema.Array(Schema.Struct({ name: Schema.String, attributes: Attributes }))),
  status: Schema.optional(Schema.Struct({ code: Schema.optional(Schema.Union([Schema.String, Schema.Number])) }))
})
export type Span = typeof Span.Type

const Points = Schema.Struct({
  dataPoints: Schema.Array(
    Schema.Struct({ attributes: Attributes, explicitBounds: Schema.optional(Schema.Array(Schema.Number)) })
  )
})
const Metric = Schema.Struct({
  name: Schema.String,
  unit: Schema.optional(Schema.String),
  description: Schema.optional(Schema.String),
  sum: Schema.optional(Points),
  gauge: Schema.optional(Points),
  histogram: Schema.optional(Points)
})
export type Metric = typeof Metric.Type

const Log = Schema.Struct({
  severityText: Schema.optional(Schema.String),
  body: Schema.Unknown,
  traceId: Schema.optional(Schema.NullOr(Schema.Unknown)),
  attributes: Attributes
})
export type Log = typeof Log.Type

const Resource = Schema.Struct({ attributes: Attributes })
const Traces = Schema.Struct({
  resourceSpans: Schema.Array(
    Schema.Struct({ resource: Resource, scopeSpans: Schema.Array(Schema.Struct({ spans: Schema.Array(Span) })) })
  )
})
const Metrics = Schema.Struct({
  resourceMetrics: Schema.Array(
    Schema.Struct({ resource: Resource, scopeMetrics: Schema.Array(Schema.Struct({ metrics: Schema.Array(Metric) })) })
  )
})
const Logs = Schema.Struct({
  resourceLogs: Schema.Array(
    Schema.Struct({ resource: Resource, scopeLogs: Schema.Array(Schema.Struct({ logRecords: Schema.Array(Log) })) })
  )
})

/** The part of `@elastic/mockotlpserver` that is used here; it has no types. */
interface Library {
  readonly MockOtlpServer: new (options: {
    readonly logLevel: "error"
    readonly services: ReadonlyArray<"http">
    readonly httpHostname: string
    readonly httpPort: number
    readonly onTrace: (raw: unknown) => void
    readonly onMetrics: (raw: unknown) => void
    readonly onLogs: (raw: unknown) => void
  }) => { readonly httpUrl: URL; readonly start: () => Promise<void>; readonly close: () => Promise<void> }
  readonly normalizeTrace: (raw: unknown) => unknown
  readonly normalizeMetrics: (raw: unknown) => unknown
  readonly normalizeLogs: (raw: unknown) => unknown
}

/** Starts the receiver on a free port and stops it when the scope closes. */
export const make = Effect.gen(function* () {
  // It is a CommonJS module.
  const library = createRequire(import.meta.url)("@elastic/mockotlpserver") as Library
  const raw = { traces: [] as Array<unknown>, metrics: [] as Array<unknown>, logs: [] as Array<unknown> }
  const server = yield* Effect.acquireRelease(
    Effect.promise(async () => {
      const server = new library.MockOtlpServer({
        logLevel: "error",
        services: ["http"],
        httpHostname: "127.0.0.1",
        httpPort: 0,
        onTrace: (trace) => raw.traces.push(library.normalizeTrace(trace)),
        onMetrics: (metrics) => raw.metrics.push(library.normalizeMetrics(metrics)),
        onLogs: (logs) => raw.logs.push(library.normalizeLogs(logs))
      })
      await server.start()
      return server
    }),
    (server) => Effect.promise(() => server.close())
  )
  const received = Effect.sync((): Received => {
    const traces = raw.traces.flatMap((all) => Schema.decodeUnknownSync(Traces)(all).resourceSpans)
    const metrics = raw.metrics.flatMap((all) => Schema.decodeUnknownSync(Metrics)(all).resourceMetrics)
    const logs = raw.logs.flatMap((all) => Schema.decodeUnknownSync(Logs)(all).resourceLogs)
    return {
      spans: traces.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans)),
      metrics: metrics.flatMap(({ scopeMetrics }) => scopeMetrics.flatMap(({ metrics }) => metrics)),
      logs: logs.flatMap(({ scopeLogs }) => scopeLogs.flatMap(({ logRecords }) => logRecords)),
      services: new Set([...traces, ...metrics, ...logs].map(({ resource }) => resource.attributes?.["service.name"])),
      text: JSON.stringify(raw)
    }
  })
  return { url: server.httpUrl.href.replace(/\/$/, ""), received }
})
