import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Schema } from "effect"
import { freePort } from "./freePort.ts"

/** Whether there is a Prometheus to start, and promtool: Debian package prometheus. */
export const installed = ["prometheus", "promtool"].every((tool) => spawnSync(tool, ["--version"]).status === 0)

/** What to say where there is none. */
export const missing = "SKIPPED, because Prometheus is not installed (Debian package prometheus)"

/** Runs promtool and returns what it said. */
export const promtool = (...args: ReadonlyArray<string>): { readonly ok: boolean; readonly said: string } => {
  const { status, stderr, stdout } = spawnSync("promtool", [...args], { encoding: "utf8" })
  return { ok: status === 0, said: stdout + stderr }
}

/** A folder that goes away with the scope. */
export const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "llm-resilience-prometheus-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

/** Starts a Prometheus of its own that reads the given ports every second and evaluates the given rules, and stops it with the scope. */
export const make = Effect.fnUntraced(function* (options: {
  readonly scrape: ReadonlyArray<number>
  readonly rules: string
}) {
  const port = yield* freePort
  const home = yield* folder
  writeFileSync(join(home, "rules.yaml"), options.rules)
  writeFileSync(
    join(home, "prometheus.yaml"),
    JSON.stringify({
      global: { scrape_interval: "1s", scrape_timeout: "1s", evaluation_interval: "1s" },
      rule_files: [join(home, "rules.yaml")],
      scrape_configs: [
        { job_name: "demo", static_configs: [{ targets: options.scrape.map((target) => `127.0.0.1:${target}`) }] }
      ]
    })
  )
  const server = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        "prometheus",
        [
          `--config.file=${join(home, "prometheus.yaml")}`,
          `--storage.tsdb.path=${join(home, "data")}`,
          `--web.listen-address=127.0.0.1:${port}`
        ],
        { cwd: home, stdio: ["ignore", "ignore", "pipe"] }
      )
    ),
    (server) =>
      Effect.callback<void>((resume) => {
        if (server.exitCode !== null || server.signalCode !== null) return resume(Effect.void)
        server.once("exit", () => resume(Effect.void))
        server.kill("SIGKILL")
      })
  )
  yield* Effect.callback<void>((resume) => {
    let said = ""
    server.stderr.on("data", (chunk) => {
      said += String(chunk)
      if (said.includes("Server is ready to receive web requests")) resume(Effect.void)
    })
    server.once("exit", () => resume(Effect.die(new Error(`prometheus ended at once: ${said}`))))
  })

  const get = <S extends Schema.ConstraintDecoder<unknown>>(path: string, schema: S) =>
    Effect.flatMap(
      Effect.promise(() => fetch(`http://127.0.0.1:${port}/api/v1/${path}`).then((response) => response.json())),
      (json) => Effect.orDie(Schema.decodeUnknownEffect(schema)(json))
    )

  return {
    /** The states of an alert: none while its condition does not hold. */
    alert: (name: string) =>
      Effect.map(get("alerts", Alerts), ({ data }) =>
        data.alerts.filter(({ labels }) => labels["alertname"] === name).map(({ state }) => state)
      ),
    /** The values of an instant query. */
    query: (expr: string) =>
      Effect.map(get(`query?query=${encodeURIComponent(expr)}`, Vector), ({ data }) =>
        data.result.map(({ value }) => Number(value[1]))
      ),
    /** What went wrong with the evaluation of rules. */
    ruleErrors: Effect.map(get("rules", Rules), ({ data }) =>
      data.groups.flatMap(({ rules }) => rules.flatMap(({ lastError }) => lastError ?? []))
    )
  }
})

const Labels = Schema.Record(Schema.String, Schema.String)
const Alerts = Schema.Struct({
  data: Schema.Struct({ alerts: Schema.Array(Schema.Struct({ labels: Labels, state: Schema.String })) })
})
const Vector = Schema.Struct({
  data: Schema.Struct({
    result: Schema.Array(Schema.Struct({ metric: Labels, value: Schema.Tuple([Schema.Number, Schema.String]) }))
  })
})
const Rules = Schema.Struct({
  data: Schema.Struct({
    groups: Schema.Array(
      Schema.Struct({ rules: Schema.Array(Schema.Struct({ lastError: Schema.optional(Schema.String) })) })
    )
  })
})
