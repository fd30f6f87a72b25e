/**
 * Alert rules for Prometheus.
 *
 * @since 0.1.0
 */
export * as Alerts from "./Alerts.ts"
/**
 * Dashboards for Grafana.
 *
 * @since 0.1.0
 */
export * as Dashboards from "./Dashboards.ts"
/**
 * Sends everything to an OTLP collector.
 *
 * @since 0.1.0
 */
export * as Otlp from "./Otlp.ts"
/**
 * Shows the metrics to Prometheus.
 *
 * @since 0.1.0
 */
export * as Prometheus from "./Prometheus.ts"
/**
 * Metrics, spans and the decision log in one layer, without an exporter.
 *
 * @since 0.1.0
 */
export * as Telemetry from "./Telemetry.ts"
