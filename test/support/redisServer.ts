import { spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { freePort } from "./freePort.ts"

/** Whether there is a Redis to start: Debian package redis-server. */
export const installed = spawnSync("redis-server", ["--version"]).status === 0

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
    stop: Effect.callback<void>((resume) => {
      server.once("exit", () => resume(Effect.void))
      server.kill("SIGKILL")
    })
  }
})
