import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Duration, Effect, Exit, Scope } from "effect"
import { afterAll, beforeAll } from "vitest"
import { freePort } from "./freePort.ts"

/** Whether there is a Redis to start: Debian package redis-server. */
export const installed = spawnSync("redis-server", ["--version"]).status === 0

/** What to say where there is none. */
export const missing = "SKIPPED, because redis-server is not installed (Debian package redis-server)"

/** Starts a Redis of its own, in a folder of its own, and stops it when the scope closes. */
export const make = Effect.gen(function* () {
  const port = yield* freePort
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "llm-resilience-redis-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )
  const server = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn("redis-server", ["--port", `${port}`, "--bind", "127.0.0.1", "--dir", folder, "--save", ""])
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
    server.stdout.on("data", (chunk) => {
      said += String(chunk)
      if (said.includes("Ready to accept connections")) resume(Effect.void)
    })
    server.once("exit", () => resume(Effect.die(new Error(`redis-server ended at once: ${said}`))))
  })
  return {
    port,
    /** Lets it stand still for so long, with all its connections open. */
    pauses: (duration: Duration.Input) =>
      Effect.acquireUseRelease(
        Effect.sync(() => server.kill("SIGSTOP")),
        () => Effect.sleep(duration),
        () => Effect.sync(() => server.kill("SIGCONT"))
      ),
    stop: Effect.callback<void>((resume) => {
      server.once("exit", () => resume(Effect.void))
      server.kill("SIGKILL")
    })
  }
})

/** Runs one server while the tests of the surrounding `describe` run, and gives its port to them. */
export const duringTests = (): (() => number) => {
  let port = 0
  const scope = Effect.runSync(Scope.make())
  beforeAll(async () => {
    port = (await Effect.runPromise(Scope.provide(make, scope))).port
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))
  return () => port
}
