import { assert, describe, it } from "@effect/vitest"
import { LlmResilience, Metrics } from "@llm-resilience/core"
import { Otlp, type Telemetry } from "@llm-resilience/opentelemetry"
import * as Sdk from "@llm-resilience/opentelemetry/Sdk"
import { Anthropic, OpenAiCompatible } from "@llm-resilience/providers"
import { Fault, Upstream } from "@llm-resilience/testing"
import { OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-http"
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http"
import { PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics"
import { BatchSpanProcessor } from "@opentelemetry/sdk-trace-base"
import { Effect, Layer, Logger, Metric, Redacted, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import * as OtlpReceiver from "../support/otlpReceiver.ts"

const key = "sk-SECRET-0815"
const question = "a question that nobody may read"
const words = "an answer that nobody may read"
const complaint = "words of the provider that quote the prompt"

/** One whole and one streamed request through real HTTP, past a primary that fails, and what the providers saw of the trace. */
const scenario = Effect.fnUntraced(function* <Out>(
  exporting: (telemetry: Telemetry.Options) => Layer.Layer<Out, never, LlmResilience.LlmResilience>,
  options: Telemetry.Options
) {
  const [primary, backup] = yield* Effect.all([
    Upstream.make({ fault: Fault.status(529, { body: { error: { message: complaint } } }), apiKey: key }),
    Upstream.make({ answer: words, apiKey: key })
  ])
  const price = { inputPerMillion: 3, outputPerMillion: 15 }
  const chain = LlmResilience.layer({
    policy: LlmResilience.standard({ retry: "off" }),
    steps: [
      {
        provider: Anthropic.layer({ model: "large", apiKey: Redacted.make(key), baseUrl: primary.baseUrl })
      },
      {
        provider: OpenAiCompatible.layer({
          model: "small",
          apiKey: Redacted.make(key),
          baseUrl: backup.baseUrl,
          capabilities: { price }
        })
      }
    ]
  }).pipe(Layer.provide(FetchHttpClient.layer))
  const program = Effect.gen(function* () {
    yield* LlmResilience.generate({ prompt: question })
    yield* Stream.runDrain(LlmResilience.stream({ prompt: question }))
  }).pipe(Effect.withSpan("application"))
  // The exporters send what they have when the layer ends.
  yield* program.pipe(
    Effect.provide(exporting(options).pipe(Layer.provideMerge(chain))),
    Effect.provide(Logger.layer([])),
    Effect.provideService(Metric.MetricRegistry, new Map())
  )
  const requests = [...(yield* primary.requests), ...(yield* backup.requests)]
  return requests.map(({ headers }) => String(headers["traceparent"]))
})

const checkMetrics = ({ metrics }: OtlpReceiver.Received): void => {
  const byName = new Map(metrics.map((metric) => [metric.name, metric]))
  const definitions = new Map<string, Metrics.Definition>(
    Object.values(Metrics.definitions).map((definition) => [definition.name, definition])
  )
  for (const { description, gauge, histogram, name, sum, unit } of byName.values()) {
    const definition = definitions.get(name)
    if (definition === undefined) continue
    assert.strictEqual(unit, definition.unit, name)
    assert.strictEqual(description, definition.description)
    const points = (definition.type === "counter" ? sum : definition.type === "gauge" ? gauge : histogram)?.dataPoints
    assert.isNotEmpty(points, name)
    for (const { attributes, explicitBounds } of points ?? []) {
      if (definition.boundaries !== undefined) assert.deepStrictEqual(explicitBounds, definition.boundaries)
      for (const label of Object.keys(attributes ?? {})) assert.include([...definition.labels, "unit"], label, name)
    }
  }

  // What the conventions require, in the version of 2026.
  const duration = byName.get("gen_ai.client.operation.duration")?.histogram?.dataPoints ?? []
  assert.strictEqual(duration.length, 2)
  for (const { attributes, explicitBounds } of duration) {
    assert.strictEqual(attributes?.["gen_ai.operation.name"], "chat")
    assert.isString(attributes?.["gen_ai.provider.name"])
    assert.isString(attributes?.["gen_ai.request.model"])
    assert.deepStrictEqual(
      explicitBounds,
      [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
    )
  }
  assert.deepStrictEqual(
    new Map(duration.map(({ attributes }) => [attributes?.["gen_ai.provider.name"], attributes?.["error.type"]])),
    new Map<unknown, unknown>([
      ["anthropic", "Overloaded"],
      ["openai", undefined]
    ])
  )
  const tokens = byName.get("gen_ai.client.token.usage")?.histogram?.dataPoints ?? []
  assert.deepStrictEqual(
    new Set(tokens.map(({ attributes }) => attributes?.["gen_ai.token.type"])),
    new Set<unknown>(["input", "output"])
  )
  assert.isDefined(byName.get("gen_ai.client.operation.time_to_first_chunk"))
  assert.isDefined(byName.get("llm_resilience.cost_usd"))
}

const checkSpans = (
  { spans }: OtlpReceiver.Received,
  attempts: "events" | "spans",
  traceparents: ReadonlyArray<string>
): void => {
  const byId = new Map(spans.map((span) => [span.spanId, span]))
  const application = spans.find(({ name }) => name === "application")
  const requests = spans.filter(
    ({ name, parentSpanId }) => parentSpanId === application?.spanId && name !== "application"
  )
  assert.strictEqual(requests.length, 2)
  assert.isTrue(spans.every(({ traceId }) => traceId === application?.traceId && traceId.length === 32))

  const chats = spans.filter(({ attributes }) => attributes?.["gen_ai.operation.name"] === "chat")
  assert.strictEqual(chats.length, attempts === "events" ? 2 : 4)
  for (const { attributes, kind, name } of chats) {
    assert.strictEqual(kind, "SPAN_KIND_CLIENT")
    assert.strictEqual(name, `chat ${String(attributes?.["gen_ai.request.model"])}`)
    assert.isString(attributes?.["gen_ai.provider.name"])
  }
  const answered = chats.filter(({ attributes }) => attributes?.["gen_ai.provider.name"] === "openai")
  assert.strictEqual(answered.length, 2)
  for (const { attributes } of answered) {
    assert.isString(attributes?.["gen_ai.response.model"])
    assert.isAbove(Number(attributes?.["gen_ai.usage.input_tokens"]), 0)
    assert.deepStrictEqual(attributes?.["gen_ai.response.finish_reasons"], ["stop"])
  }
  for (const { events } of requests) {
    const names = (events ?? []).map(({ name }) => name)
    assert.include(names, "llm_resilience.attempt.failed")
    assert.include(names, "llm_resilience.fallback")
  }

  // The provider continues the trace: its parent is the HTTP span, which is below the call, or the request.
  assert.strictEqual(traceparents.length, 4)
  for (const traceparent of traceparents) {
    const [version, traceId, spanId] = traceparent.split("-")
    const http = byId.get(spanId ?? "")
    const above = byId.get(String(http?.parentSpanId))
    assert.strictEqual(version, "00")
    assert.strictEqual(traceId, application?.traceId)
    assert.strictEqual(above?.attributes?.["gen_ai.operation.name"], "chat")
  }
}

const checkSecrets = ({ text }: OtlpReceiver.Received): void => {
  for (const secret of [key, question, words, complaint]) assert.notInclude(text, secret)
}

describe("a receiver that others wrote", () => {
  for (const encoding of ["protobuf", "json"] as const) {
    const attempts = encoding === "json" ? ("events" as const) : ("spans" as const)
    it.live(`reads metrics, spans and logs from OTLP, ${encoding}, with attempts as ${attempts}`, () =>
      Effect.gen(function* () {
        const receiver = yield* OtlpReceiver.make
        const traceparents = yield* scenario(
          (telemetry) =>
            Otlp.layer({ ...telemetry, baseUrl: receiver.url, encoding, resource: { serviceName: "demo" } }).pipe(
              Layer.provide(FetchHttpClient.layer)
            ),
          { traces: { attempts } }
        )
        const received = yield* receiver.received

        assert.deepStrictEqual([...received.services], ["demo"])
        checkMetrics(received)
        checkSpans(received, attempts, traceparents)
        checkSecrets(received)
        const fallback = received.logs.find(({ attributes }) => attributes?.["llm_resilience.event"] === "FellBack")
        assert.strictEqual(fallback?.attributes?.["llm_resilience.from"], "anthropic")
        assert.strictEqual(fallback?.attributes?.["llm_resilience.reason"], "Overloaded")
        assert.match(String(fallback?.severityText), /^warn/i)
      }).pipe(Effect.scoped)
    )
  }

  it.live("reads metrics and spans from an application with an OpenTelemetry SDK", () =>
    Effect.gen(function* () {
      const receiver = yield* OtlpReceiver.make
      const traceparents = yield* scenario(
        (telemetry) =>
          Sdk.layer(
            () => ({
              resource: { serviceName: "demo" },
              spanProcessor: new BatchSpanProcessor(new OTLPTraceExporter({ url: `${receiver.url}/v1/traces` })),
              metricReader: new PeriodicExportingMetricReader({
                exporter: new OTLPMetricExporter({ url: `${receiver.url}/v1/metrics` })
              })
            }),
            telemetry
          ),
        {}
      )
      const received = yield* receiver.received

      assert.deepStrictEqual([...received.services], ["demo"])
      checkMetrics(received)
      checkSpans(received, "events", traceparents)
      checkSecrets(received)
    }).pipe(Effect.scoped)
  )
})
