/**
 * What a call and a chunk cost on a good day, in each system, over one and the same canned transport.
 */
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { quantile } from "./Outage.ts"
import type { Crashed, Running, System } from "./Systems.ts"

export interface Effort {
  /** Calls until the compiler has settled. */
  readonly warmUp: number
  readonly rounds: number
  readonly calls: number
  readonly streams: number
  /** Calls before the memory is looked at. */
  readonly remembered: number
}

/** Medians of the rounds, whole: nothing is subtracted. */
export interface Cost {
  readonly system: string
  readonly callCpuMicros: number
  readonly callWallMicros: number
  readonly callBytes: number
  readonly chunkCpuMicros: number
  /** What stays behind for each of the calls before the memory was looked at. */
  readonly retainedBytes: number
  readonly memory: Memory
}

/** The memory of a process after so many calls, and after a collection. */
export interface Memory {
  readonly calls: number
  readonly heapBytes: number
  readonly residentBytes: number
}

/** The chunks of a canned stream. */
export const chunks = 500

/** All systems, in rounds of one after another, back and forth. */
export const table = (running: ReadonlyArray<Running>, effort: Effort): Effect.Effect<ReadonlyArray<Cost>, Crashed> =>
  Effect.gen(function* () {
    const calls = new Map(running.map(({ system }) => [system, empty()] as const))
    const streams = new Map(running.map(({ system }) => [system, empty()] as const))
    for (const system of running) {
      yield* system.spend({ _tag: "Spend", stream: false, calls: effort.warmUp })
      yield* system.spend({ _tag: "Spend", stream: true, calls: effort.streams * 5 })
    }
    for (let round = 0; round < effort.rounds; round++) {
      for (const system of round % 2 === 0 ? running : running.toReversed()) {
        const call = yield* system.spend({ _tag: "Spend", stream: false, calls: effort.calls })
        const stream = yield* system.spend({ _tag: "Spend", stream: true, calls: effort.streams })
        // Few enough that the young generation takes them without a collection, so that the heap shows what they allocate.
        const { bytes } = yield* system.spend({ _tag: "Spend", stream: false, calls: 40 })
        keep(calls.get(system.system), { ...call, bytes })
        keep(streams.get(system.system), stream)
      }
    }
    // Memory does not mind a neighbour, as time does.
    return yield* Effect.forEach(
      running,
      ({ spend, system }) =>
        Effect.map(spend({ _tag: "Spend", stream: false, calls: effort.remembered, collect: true }), (spent): Cost => {
          const call = calls.get(system) ?? empty()
          return {
            system: system.name,
            callCpuMicros: median(call.cpuMicros),
            callWallMicros: median(call.wallMicros),
            callBytes: median(call.bytes),
            chunkCpuMicros: median(streams.get(system)?.cpuMicros ?? []) / chunks,
            retainedBytes: spent.retainedBytes / effort.remembered,
            memory: { calls: effort.remembered, heapBytes: spent.heapBytes, residentBytes: spent.residentBytes }
          }
        }),
      { concurrency: 2 }
    )
  })

/** Per call. */
export interface Spent {
  readonly cpuMicros: number
  readonly wallMicros: number
  readonly bytes: number
  /** Of all calls together, after a collection. */
  readonly retainedBytes: number
  /** Of the whole process, after a collection. */
  readonly heapBytes: number
  readonly residentBytes: number
}

const empty = () => ({ cpuMicros: [] as Array<number>, wallMicros: [] as Array<number>, bytes: [] as Array<number> })

const keep = (into: ReturnType<typeof empty> | undefined, spent: Spent): void => {
  into?.cpuMicros.push(spent.cpuMicros)
  into?.wallMicros.push(spent.wallMicros)
  into?.bytes.push(spent.bytes)
}

const median = (values: ReadonlyArray<number>): number =>
  quantile(
    values.toSorted((one, other) => one - other),
    0.5
  )

/** The size of a program that makes one call, and the time it takes to start. */
export interface Bundle {
  readonly system: string
  readonly minified: number
  readonly gzipped: number
  /** From spawning Node to its end. */
  readonly startMillis: number
  /** The part of it in which the bundle is loaded and the client made. */
  readonly importMillis: number
}

/** Bundles the client code of a system, minified, and starts it a few times. */
export const bundle = (system: System, starts: number): Effect.Effect<Bundle, Error> =>
  Effect.gen(function* () {
    const folder = mkdtempSync(join(tmpdir(), "bundle-"))
    const entry = join(folder, "entry.ts")
    const output = join(folder, "bundle.mjs")
    const starter = join(folder, "start.mjs")
    return yield* Effect.gen(function* () {
      const module = JSON.stringify(fileURLToPath(system.module))
      writeFileSync(entry, `import { make } from ${module}\nawait make(${JSON.stringify(nobody)}, ${longLimits})\n`)
      writeFileSync(starter, `const begin = performance.now()\nawait import("./bundle.mjs")\n${sayElapsed}\n`)
      yield* run(esbuild(), [
        entry,
        "--bundle",
        "--minify",
        "--format=esm",
        "--platform=node",
        "--conditions=@llm-resilience/source",
        `--banner:js=import{createRequire}from"node:module";const require=createRequire(import.meta.url);`,
        `--outfile=${output}`
      ])
      const bytes = readFileSync(output)
      const whole: Array<number> = []
      const imports: Array<number> = []
      for (let start = 0; start < starts; start++) {
        const begin = performance.now()
        const said = yield* run(process.execPath, [starter])
        whole.push(performance.now() - begin)
        imports.push(Number(said))
      }
      return {
        system: system.name,
        minified: bytes.length,
        gzipped: gzipSync(bytes).length,
        startMillis: median(whole),
        importMillis: median(imports)
      }
    }).pipe(Effect.ensuring(Effect.sync(() => rmSync(folder, { recursive: true }))))
  })

const nobody = { primary: "http://127.0.0.1:9/v1", backup: "http://127.0.0.1:9/v1" }
const longLimits = JSON.stringify({ attemptMillis: 30_000, idleMillis: 15_000, deadlineMillis: 45_000 })

const sayElapsed = "process.stdout.write(String(performance.now() - begin))"

const esbuild = (): string =>
  createRequire(new URL("../peers/package.json", import.meta.url)).resolve("esbuild/bin/esbuild")

/** Runs a program to its end, and gives what it said. */
const run = (command: string, args: ReadonlyArray<string>): Effect.Effect<string, Error> =>
  Effect.callback((resume) => {
    const child = execFile(command, args, { timeout: 120_000 }, (error, said) =>
      resume(error === null ? Effect.succeed(said) : Effect.fail(error))
    )
    return Effect.sync(() => child.kill())
  })
