import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, Metrics, Policy } from "@llm-resilience/core"
import { Telemetry } from "@llm-resilience/opentelemetry"
import { Chaos, ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Layer, Logger, Metric, References } from "effect"
import { keptSpans } from "../support/keptSpans.ts"

describe("Telemetry", () => {
  it.effect("shows a fault made on purpose: in the metrics, in the log and in the span, beside what it led to", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("from a")] }),
        ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("from b")] })
      ])
      const chaos = Chaos.policy({ rules: [{ fault: Chaos.error("Overloaded") }] })
      const policy = Policy.all([LlmResilience.standard({ retry: "off" }), chaos])
      const resilience = yield* LlmResilience.make({ steps: [{ provider: a, policy }, { provider: b }] })
      const lines: Array<readonly [string, unknown]> = []
      const logger = Logger.make(({ fiber, message }) => {
        lines.push([String(message), fiber.getRef(References.CurrentLogAnnotations)])
      })
      const { spans, tracer } = keptSpans()
      const answer = yield* Effect.provide(
        Effect.withTracer(resilience.generate(LlmRequest.make({ prompt: "Hi" })), tracer),
        Telemetry.layer().pipe(
          Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience)),
          Layer.provideMerge(Logger.layer([logger]))
        )
      )
      const injected = (yield* Metric.snapshot).find(({ id }) => id === Metrics.definitions.chaos.name)

      assert.strictEqual(answer.text, "from b")
      assert.deepInclude(injected?.attributes, { provider: "a", fault: "Overloaded" })
      assert.strictEqual(injected?.type === "Counter" && injected.state.count, 1)
      assert.deepStrictEqual(
        spans.flatMap(({ events }) => events.map(([name]) => name)),
        [
          "llm_resilience.chaos",
          "llm_resilience.attempt.failed",
          "llm_resilience.fallback",
          "llm_resilience.attempt.succeeded"
        ]
      )
      assert.deepInclude(spans[0]?.events[0]?.[2], {
        "llm_resilience.provider": "a",
        "llm_resilience.fault": "Overloaded"
      })
      const [made, turned] = lines
      assert.strictEqual(made?.[0], "request 1: made a fault at a on purpose, Overloaded")
      assert.deepInclude(made?.[1], {
        "llm_resilience.event": "ChaosInjected",
        "llm_resilience.request": 1,
        "llm_resilience.fault": "Overloaded"
      })
      assert.match(turned?.[0] ?? "", /^request 1: asking b instead, a failed: APIError Overloaded/)
    }).pipe((effect) => Effect.provideService(effect, Metric.MetricRegistry, new Map()))
  )
})
