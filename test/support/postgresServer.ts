import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { chownSync, existsSync, globSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import { type Duration, Effect, Exit, Layer, Scope } from "effect"
import { afterAll, beforeAll } from "vitest"
import { freePort } from "./freePort.ts"

// Debian does not put the server into the path.
const binaries = [
  ...globSync("/usr/lib/postgresql/*/bin").toSorted((a, b) => b.localeCompare(a, "en", { numeric: true })),
  ...(process.env.PATH ?? "").split(delimiter)
].find((folder) => ["initdb", "postgres"].every((name) => existsSync(join(folder, name))))

/** Whether there is a PostgreSQL to start: Debian package postgresql. */
export const installed = binaries !== undefined

/** What to say where there is none. */
export const missing = "SKIPPED, because PostgreSQL is not installed (Debian package postgresql)"

const idOf = (kind: "-u" | "-g", user: string): number | undefined => {
  const { status, stdout } = spawnSync("id", [kind, user], { encoding: "utf8" })
  return status === 0 ? Number(stdout) : undefined
}

// The server refuses to run as root.
const account = (): { readonly uid: number; readonly gid: number } | undefined => {
  if (process.getuid?.() !== 0) return undefined
  for (const user of ["postgres", "nobody"]) {
    const uid = idOf("-u", user)
    const gid = idOf("-g", user)
    if (uid !== undefined && gid !== undefined) return { uid, gid }
  }
  throw new Error("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

/** Starts a PostgreSQL of its own, in a folder of its own, and stops it when the scope closes. One that runs already is left alone. */
export const make = Effect.gen(function* () {
  if (binaries === undefined) return yield* Effect.die(new Error(missing))
  const as = account()
  const port = yield* freePort
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "llm-resilience-postgres-"))
      if (as !== undefined) chownSync(folder, as.uid, as.gid)
      return folder
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )
  const data = join(folder, "data")
  // Nothing of the environment: no locale, in whose words it would say that it is ready, and no PGHOST or PGDATA.
  const options = { ...as, cwd: folder, env: { PATH: process.env.PATH, LC_ALL: "C" } }
  // Whoever wants in comes from this machine over TCP.
  const access = ["--auth-host=trust", "--auth-local=reject", "--username=postgres"]
  yield* Effect.callback<void>((resume) => {
    const initdb = spawn(
      join(binaries, "initdb"),
      ["--pgdata", data, "--encoding=UTF8", "--locale=C", "--no-sync", ...access],
      options
    )
    let said = ""
    initdb.stdout.on("data", (chunk) => (said += String(chunk)))
    initdb.stderr.on("data", (chunk) => (said += String(chunk)))
    initdb.once("close", (code) =>
      resume(code === 0 ? Effect.void : Effect.die(new Error(`initdb failed with ${code}: ${said}`)))
    )
  })
  const settings = {
    listen_addresses: "127.0.0.1",
    unix_socket_directories: folder,
    fsync: "off",
    shared_buffers: "16MB",
    max_connections: "100"
  }
  const stopped = (server: ChildProcess) =>
    Effect.callback<void>((resume) => {
      if (server.exitCode !== null || server.signalCode !== null) return resume(Effect.void)
      server.once("exit", () => resume(Effect.void))
      // At once, together with the processes that it started.
      server.kill("SIGQUIT")
    })
  const server = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(
        join(binaries, "postgres"),
        [
          "-D",
          data,
          "-p",
          `${port}`,
          ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
        ],
        { ...options, stdio: ["ignore", "ignore", "pipe"] }
      )
    ),
    stopped
  )
  yield* Effect.callback<void>((resume) => {
    let said = ""
    server.stderr.on("data", (chunk) => {
      said += String(chunk)
      if (said.includes("ready to accept connections")) resume(Effect.void)
    })
    server.once("exit", () => resume(Effect.die(new Error(`postgres ended at once: ${said}`))))
  })
  // Each connection has a process of its own.
  const tellAll = (signal: "SIGSTOP" | "SIGCONT") =>
    Effect.sync(() => {
      const children = spawnSync("ps", ["-o", "pid=", "--ppid", `${server.pid}`], { encoding: "utf8" }).stdout
      for (const pid of [`${server.pid}`, ...children.trim().split(/\s+/)]) process.kill(Number(pid), signal)
    })
  return {
    port,
    /** Lets it stand still for so long, with all its connections open. */
    pauses: (duration: Duration.Input) =>
      Effect.acquireUseRelease(
        tellAll("SIGSTOP"),
        () => Effect.sleep(duration),
        () => tellAll("SIGCONT")
      ),
    stop: stopped(server)
  }
})

/** Layer of a client of such a server, with connections of its own. */
export const client = (port: number, maxConnections = 2) =>
  Layer.fresh(
    PgClient.layer({ host: "127.0.0.1", port, username: "postgres", database: "postgres", ssl: false, maxConnections })
  )

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
