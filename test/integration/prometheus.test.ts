import { spawn } from "node:child_process"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Alerts, Dashboards } from "@llm-resilience/opentelemetry"
import { Effect, Schedule } from "effect"
import { freePort } from "../support/freePort.ts"
import * as PrometheusServer from "../support/prometheusServer.ts"

const root = join(import.meta.dirname, "../..")

/** Asks until the answer is as wanted. Whatever has not happened after half a minute does not happen. */
const eventually = <A>(what: string, ask: Effect.Effect<A>, wanted: (answer: A) => boolean) =>
  ask.pipe(
    Effect.filterOrFail(wanted, (last) => new Error(`${what} did not come about; last seen: ${JSON.stringify(last)}`)),
    Effect.retry(Schedule.spaced("200 millis").pipe(Schedule.upTo({ duration: "30 seconds" }))),
    Effect.orDie
  )

/** Runs the application of docs/examples/monitoring.ts as a process of its own. */
const application = Effect.gen(function* () {
  const port = yield* freePort
  const lines: Array<string> = []
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(
        process.execPath,
        ["-C", "@llm-resilience/source", "docs/examples/monitoring.ts", "--serve", `${port}`],
        { cwd: root, stdio: ["ignore", "pipe", "pipe"] }
      )
      let rest = ""
      child.stdout.on("data", (chunk) => {
        const all = (rest + String(chunk)).split("\n")
        rest = all.pop() ?? ""
        lines.push(...all)
      })
      child.stderr.on("data", (chunk) => lines.push(String(chunk)))
      return child
    }),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
  )
  const call = (method: string, path: string) =>
    Effect.tryPromise({
      try: () => fetch(`http://127.0.0.1:${port}${path}`, { method }).then((response) => response.text()),
      catch: () => new Error(`the application does not answer: ${lines.join("\n")}`)
    })
  yield* eventually("the application", Effect.result(call("GET", "/metrics")), ({ _tag }) => _tag === "Success")
  return { port, lines, call: (method: string, path: string) => Effect.orDie(call(method, path)) }
})

describe.skipIf(!PrometheusServer.installed)("with a real Prometheus", () => {
  it("the alert rules are rules, and fire when they should", () => {
    const shipped = PrometheusServer.promtool("check", "rules", rulesFile)
    assert.isTrue(shipped.ok, shipped.said)

    for (const file of ["alerts.test.yaml", "alerts-drills.test.yaml"]) {
      const tested = PrometheusServer.promtool("test", "rules", join(import.meta.dirname, file))
      assert.isTrue(tested.ok, tested.said)
    }
  })

  it.live("a drill makes the fallback alert pending, then firing; it resolves, and the dashboards have seen it", () =>
    Effect.gen(function* () {
      const demo = yield* application
      const prometheus = yield* PrometheusServer.make({
        scrape: [demo.port],
        // The conditions of the shipped rules, with less patience.
        rules: Alerts.toYaml(Alerts.rules({ window: "5s", for: { LlmFallbackActive: "2s" } }))
      })
      const alert = prometheus.alert("LlmFallbackActive")
      yield* eventually(
        "an answer of the primary",
        prometheus.query(`sum(rate(llm_resilience_answers_total{provider="primary",fallback="false"}[5s]))`),
        ([rate]) => rate !== undefined && rate > 0
      )
      assert.deepStrictEqual(yield* alert, [])
      const before = demo.lines.length

      yield* demo.call("POST", "/drill/start")
      yield* eventually("the pending alert", alert, ([state]) => state === "pending")
      yield* eventually("the firing alert", alert, ([state]) => state === "firing")

      // Every second the circuit is half-open for a moment, and the primary is not out but being tried.
      yield* eventually("a word that the primary is out", demo.call("GET", "/status"), (text) =>
        /primary has been out for .*; answers come from backup/.test(text)
      )
      const lines = demo.lines.slice(before).map((line) => JSON.parse(line) as Line)
      const first = lines.find(({ annotations }) => annotations["llm_resilience.event"] === "FellBack")
      assert.deepInclude(first?.annotations, {
        "llm_resilience.from": "primary",
        "llm_resilience.to": "backup",
        "llm_resilience.reason": "Network"
      })
      assert.strictEqual(first?.level, "WARN")
      assert.isTrue(lines.some(({ annotations }) => annotations["llm_resilience.event"] === "CircuitChanged"))

      // What the drill has not touched has no data: nobody queued, retried or streamed.
      const shown = new Set<string>()
      for (const { panels } of Object.values(Dashboards).filter(isDashboard)) {
        for (const { targets, title } of panels) {
          for (const { expr } of targets) {
            if ((yield* prometheus.query(withoutVariables(expr))).length > 0) shown.add(title)
          }
        }
      }
      assert.deepStrictEqual(
        shownByTheDrill.filter((title) => !shown.has(title)),
        []
      )

      yield* demo.call("POST", "/drill/end")
      yield* eventually("the end of the alert", alert, ({ length }) => length === 0)
      yield* eventually("a word that all is well", demo.call("GET", "/status"), (text) =>
        text.includes(`"text":"Answers come from primary."`)
      )
      assert.deepStrictEqual(yield* prometheus.ruleErrors, [])

      // On the happy path nothing is logged.
      const after = demo.lines.length
      yield* eventually(
        "more answers",
        prometheus.query(`sum(rate(llm_resilience_answers_total{provider="primary",fallback="false"}[3s]))`),
        ([rate]) => rate !== undefined && rate > 0
      )
      assert.deepStrictEqual(demo.lines.slice(after), [])
    }).pipe(Effect.scoped)
  )
})

describe.runIf(!PrometheusServer.installed)("without Prometheus", () => {
  it.skip(PrometheusServer.missing, () => {})
})

interface Line {
  readonly level: string
  readonly message: unknown
  readonly annotations: { readonly [key: string]: unknown }
}

const rulesFile = join(root, "packages/opentelemetry/alerts/llm-resilience.rules.yaml")

const shownByTheDrill = [
  "Requests by how they ended",
  "Answers by who gave them",
  "Share of answers after a fallback",
  "Fallbacks by cause",
  "Circuits that are not closed",
  "What users were told",
  "Requests under way",
  "Overhead of this library",
  "Attempts",
  "Skips",
  "Duration of single calls",
  "Errors of single calls",
  "Circuit",
  "Rest",
  "Rate limits and isolations",
  "Budget for retries and hedges",
  "Dollars an hour",
  "Dollars in the time shown",
  "Tokens a second",
  "Tokens of one call",
  "Dollars for a thousand answers",
  "Answers that cost nothing"
]

const isDashboard = (value: unknown): value is Dashboards.Dashboard =>
  typeof value === "object" && value !== null && "panels" in value

const withoutVariables = (expr: string): string =>
  expr.replaceAll("$__rate_interval", "10s").replaceAll("$__range", "1m").replaceAll("$provider", ".*")
