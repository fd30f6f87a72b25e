/**
 * The systems that are compared, each in a process of its own, so that none of them pays for the work or the crash of another.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type ChildProcess, execFile, fork } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import type { Limits, Upstreams } from "./Client.ts"
import type { Spent } from "./Cost.ts"

/** A system, where its client code is, and the packages whose versions are reported. */
export interface System {
  readonly name: string
  readonly module: URL
  readonly packages: ReadonlyArray<string>
}

const peersFolder = new URL("../peers/", import.meta.url)

const own = (name: string, file: string, packages: ReadonlyArray<string>): System => ({
  name,
  module: new URL(`./systems/${file}`, import.meta.url),
  packages
})

const peer = (name: string, file: string, packages: ReadonlyArray<string>): System => ({
  name,
  module: new URL(file, peersFolder),
  packages
})

export const systems: ReadonlyArray<System> = [
  own("llm-resilience", "Ours.ts", []),
  own("stock Effect", "StockEffect.ts", ["effect"]),
  peer("AI SDK", "aiSdk.ts", ["ai", "@ai-sdk/openai-compatible"]),
  peer("AI SDK + ai-retry", "aiRetry.ts", ["ai", "ai-retry"]),
  peer("AI SDK + ai-fallback", "aiFallback.ts", ["ai", "ai-fallback"]),
  peer("LangChain.js", "langchain.ts", ["@langchain/core", "@langchain/openai"]),
  peer("openai-node", "openaiNode.ts", ["openai"]),
  peer("cockatiel + fetch", "cockatiel.ts", ["cockatiel"])
]

/** All of the above, and ours with health checks, which only matter over time. */
export const underLoad: ReadonlyArray<System> = [
  own("llm-resilience", "Ours.ts", []),
  own("llm-resilience + health checks", "OursChecked.ts", []),
  ...systems.slice(1)
]

/** All systems over a canned transport, and the transport alone. */
export const wired: ReadonlyArray<System> = [peer("fetch alone", "fetchAlone.ts", []), ...systems]

/** What only guards calls, without a wire, and nothing at all. */
export const alone: ReadonlyArray<System> = [
  own("nothing", "Nothing.ts", []),
  own("llm-resilience", "OursAlone.ts", []),
  own("stock Effect", "StockEffectAlone.ts", ["effect"]),
  peer("cockatiel", "cockatielAlone.ts", ["cockatiel"])
]

/** Installs the peers from their own lockfile, unless they are there. What cannot be installed shows when a system is started. */
export const install: Effect.Effect<string | undefined> = Effect.callback((resume) => {
  if (existsSync(new URL("node_modules/.package-lock.json", peersFolder))) return resume(Effect.succeed(undefined))
  const child = execFile(
    "npm",
    ["ci", "--no-audit", "--no-fund", "--no-workspaces"],
    { cwd: fileURLToPath(peersFolder), timeout: 300_000, shell: process.platform === "win32" },
    (error, _stdout, stderr) => resume(Effect.succeed(error === null ? undefined : stderr.trim().split("\n").at(-1)))
  )
  return Effect.sync(() => child.kill())
})

/** The version of a package as the system would load it. */
export const versionOf = (name: string): string => {
  for (const folder of [peersFolder, new URL("../../../", import.meta.url)]) {
    const file = new URL(`node_modules/${name}/package.json`, folder)
    if (!existsSync(file)) continue
    // Every package has a version, or npm would not have installed it.
    const { version } = JSON.parse(readFileSync(file, "utf8")) as { readonly version: string }
    return version
  }
  return "not installed"
}

/** What a process of a system is asked; see `child.ts`. */
export type Order =
  | {
      readonly _tag: "Ask"
      readonly upstreams: Upstreams
      readonly limits: Limits
      readonly stream: boolean
      readonly times: number
      readonly leaveAfterMillis?: number | undefined
      /** When the harness gives up on a call that should have ended. */
      readonly patienceMillis: number
    }
  | {
      readonly _tag: "Load"
      readonly upstreams: Upstreams
      readonly limits: Limits
      readonly perSecond: number
      readonly seconds: number
      readonly patienceMillis: number
    }

/** What a process is asked that was started to be measured. */
export interface Spending {
  readonly _tag: "Spend"
  readonly stream: boolean
  readonly calls: number
  /** Whether to look at what is kept, which takes whole collections: after one the compiler has to learn anew. */
  readonly collect?: boolean | undefined
}

/** How one call ended, as the program that made it saw it. */
export interface Outcome {
  readonly _tag: "Success" | "Failure" | "Hung"
  /** Since the begin of the order. */
  readonly startedAt: number
  readonly millis: number
  readonly text?: string | undefined
  readonly finishReason?: string | undefined
  readonly error?: string | undefined
}

export type Report =
  | { readonly id: number; readonly _tag: "Outcomes"; readonly outcomes: ReadonlyArray<Outcome> }
  | { readonly id: number; readonly _tag: "Spent"; readonly spent: Spent }
  | { readonly _tag: "Unhandled"; readonly message: string }
  | { readonly _tag: "Ready" }

/** A running system. */
export interface Running {
  readonly system: System
  readonly order: (order: Order) => Effect.Effect<ReadonlyArray<Outcome>, Crashed>
  readonly spend: (order: Spending) => Effect.Effect<Spent, Crashed>
  /** Rejections and errors that nobody handled; by default any of them ends a Node program. */
  readonly unhandled: () => ReadonlyArray<string>
}

/** The process of a system ended, with what it said last. */
export class Crashed extends Error {
  readonly _tag = "Crashed"
}

/** Starts a system in a process of its own, which ends with the scope. With a canned transport no request leaves the process. */
export const start = (
  system: System,
  transport: "real" | "canned" = "real"
): Effect.Effect<Running, Crashed, Scope.Scope> =>
  Effect.gen(function* () {
    const unhandled: Array<string> = []
    const waiting = new Map<number, (report: Effect.Effect<Report, Crashed>) => void>()
    let orders = 0
    let complaint = ""
    const child: ChildProcess = yield* Effect.acquireRelease(
      Effect.callback<ChildProcess, Crashed>((resume) => {
        const child = fork(new URL("./child.ts", import.meta.url), [system.module.href, transport], {
          // A young generation of a steady size.
          execArgv: ["-C", "@llm-resilience/source", "--expose-gc", "--min-semi-space-size=16"],
          stdio: ["ignore", "ignore", "pipe", "ipc"]
        })
        child.stderr?.on("data", (text: Buffer) => {
          complaint = `${complaint}${text.toString()}`.slice(-2000)
        })
        child.on("exit", (code) => {
          const crashed = Effect.fail(new Crashed(reasonOf(complaint) ?? `exit code ${code}`))
          resume(crashed)
          for (const done of waiting.values()) done(crashed)
          waiting.clear()
        })
        child.on("message", (report: Report) => {
          if (report._tag === "Ready") return resume(Effect.succeed(child))
          if (report._tag === "Unhandled") return void unhandled.push(report.message)
          waiting.get(report.id)?.(Effect.succeed(report))
          waiting.delete(report.id)
        })
      }),
      (child) => Effect.sync(() => child.kill())
    )
    const ask = (order: Order | Spending) =>
      Effect.callback<Report, Crashed>((resume) => {
        const id = orders++
        waiting.set(id, resume)
        child.send({ id, order })
      })
    const confused = Effect.fail(new Crashed("another report than the one asked for"))
    return {
      system,
      order: (order) =>
        Effect.flatMap(ask(order), (report) =>
          report._tag === "Outcomes" ? Effect.succeed(report.outcomes) : confused
        ),
      spend: (order) =>
        Effect.flatMap(ask(order), (report) => (report._tag === "Spent" ? Effect.succeed(report.spent) : confused)),
      unhandled: () => unhandled
    } satisfies Running
  })

const reasonOf = (complaint: string): string | undefined =>
  complaint.split("\n").find((line) => /error|cannot find/i.test(line))
