import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, Metrics } from "@llm-resilience/core"
import { Prometheus } from "@llm-resilience/opentelemetry"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Layer, Metric } from "effect"

describe("Prometheus", () => {
  it("has the names that a collector would give", () => {
    assert.deepStrictEqual(
      [
        Metrics.definitions.callDuration,
        Metrics.definitions.tokens,
        Metrics.definitions.answers,
        Metrics.definitions.circuit
      ].map(Prometheus.nameOf),
      [
        "gen_ai_client_operation_duration_seconds",
        "gen_ai_client_token_usage",
        "llm_resilience_answers_total",
        "llm_resilience_circuit_state"
      ]
    )
  })

  it("is explained: every metric is in the guide", () => {
    const guide = readFileSync(join(import.meta.dirname, "../../docs/monitoring.md"), "utf8")
    const missing = Object.values(Metrics.definitions).filter(
      ({ name }) => !guide.includes(`\`${name}\``) && !guide.includes(`\`${name.replace("llm_resilience", "")}\``)
    )

    assert.deepStrictEqual(missing, [])
  })

  it.effect("writes every series under a name that is announced, and leaves the application's own alone", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("QuotaExhausted")] }),
        ScriptedProvider.make({ id: 'b"\n', script: [ScriptedProvider.answer("Hello!")] })
      ])
      const resilience = yield* LlmResilience.make({ steps: [{ provider: a }, { provider: b }] })
      yield* Layer.build(Metrics.layer().pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience))))
      yield* Metric.update(Metric.counter("my_own_counter"), 1)
      yield* resilience.generate(LlmRequest.make({ prompt: "Hi" }))
      const lines = (yield* Prometheus.format).split("\n").filter((line) => line !== "" && !line.startsWith("#"))
      const strange = lines
        .map((line) => /^[a-z_]+/.exec(line)?.[0] ?? line)
        .filter((name) => !Prometheus.names.has(name))

      assert.deepStrictEqual([...new Set(strange)], ["my_own_counter"])
      assert.isTrue(lines.every((line) => /^[a-z_]+(\{.*\})? [0-9.e+-]+$/.test(line)))
      assert.include(lines, 'llm_resilience_fallbacks_total{from="a",to="b\\"\\n",reason="QuotaExhausted"} 1')
    }).pipe((effect) => Effect.provideService(effect, Metric.MetricRegistry, new Map()))
  )
})
