/**
 * Shows the metrics to Prometheus: an endpoint for it to read, and the names that they have there.
 *
 * Names are those that an OpenTelemetry collector would make of them: dots become underscores, the unit is the end of the name, and counters end
 * in `_total`. So the alert rules and dashboards of this package fit whichever way the metrics came.
 *
 * **Example** (Five lines)
 *
 * ```ts import.meta.vitest
 * import { LlmResilience } from "@llm-resilience/core"
 * import { Prometheus } from "@llm-resilience/opentelemetry"
 * import { ScriptedProvider } from "@llm-resilience/testing"
 * import { Effect, Layer, Metric } from "effect"
 * import { HttpRouter } from "effect/http"
 *
 * const chain = LlmResilience.layer({
 *   steps: [{ provider: ScriptedProvider.layer({ id: "primary", script: [ScriptedProvider.answer("Hello!")] }) }]
 * })
 * const routes = Prometheus.layer().pipe(Layer.provide(chain)) // HttpRouter.serve(routes) answers GET /metrics
 *
 * const { dispose, handler } = HttpRouter.toWebHandler(
 *   routes.pipe(Layer.provideMerge(Layer.succeed(Metric.MetricRegistry, new Map()))),
 *   { disableLogger: true }
 * )
 * const text = await (await handler(new Request("http://localhost/metrics"))).text()
 * await dispose()
 *
 * text.includes('llm_resilience_attempts_total{provider="primary",outcome="succeeded"} 0') // => true
 * ```
 *
 * @since 0.1.0
 */
import type { LlmResilience } from "@llm-resilience/core/LlmResilience"
import * as Metrics from "@llm-resilience/core/Metrics"
import type * as Effect from "effect/Effect"
import type { PathInput } from "effect/http/HttpRouter"
import type * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as Telemetry from "./Telemetry.ts"

/**
 * Returns the name that a family of metrics has in Prometheus. A histogram has three: this one with `_bucket`, `_sum` and `_count`.
 *
 * @category conversions
 * @since 0.1.0
 */
export const nameOf = ({ name, type, unit }: Metrics.Definition): string => {
  const base = name.replaceAll(/[^a-zA-Z0-9_]/g, "_")
  const withUnit = unit === "s" ? `${base}_seconds` : base
  return type === "counter" ? `${withUnit}_total` : withUnit
}

/**
 * The names of all series in Prometheus.
 *
 * @category constants
 * @since 0.1.0
 */
export const names: ReadonlySet<string> = new Set(
  Object.values(Metrics.definitions).flatMap((definition: Metrics.Definition) => {
    const name = nameOf(definition)
    return definition.type === "histogram" ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name]
  })
)

const ours: ReadonlyMap<string, string> = new Map(
  Object.values(Metrics.definitions).map((definition: Metrics.Definition) => [definition.name, nameOf(definition)])
)

/**
 * Writes all metrics of the application as Prometheus reads them, those of this library under {@link nameOf}.
 *
 * @category formatting
 * @since 0.1.0
 */
export const format: Effect.Effect<string> = PrometheusMetrics.format({
  metricNameMapper: (name) => ours.get(name) ?? name
})

/**
 * Layer that counts what happens in `LlmResilience`, writes the decision log, and adds a route on which Prometheus reads the metrics: `/metrics` unless
 * `path` says another.
 *
 * **Details**
 *
 * Prometheus has no traces, so there are none unless `traces` are given.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options?: Telemetry.Options & { readonly path?: PathInput | undefined }
): Layer.Layer<never, never, LlmResilience | HttpRouter.HttpRouter> =>
  Layer.mergeAll(
    Telemetry.layer({ ...options, traces: options?.traces ?? "off" }),
    PrometheusMetrics.layerHttp({ path: options?.path, metricNameMapper: (name) => ours.get(name) ?? name })
  )
